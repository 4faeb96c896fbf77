"""The step, the run, and everything that keeps it from being lost."""

from mmclr.runtime.spinning import let_threads_sleep

let_threads_sleep()  # whoever imports torch after this, or starts `python -m mmclr.train`
