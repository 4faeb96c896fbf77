"""`accelerate launch -m mmclr.train CONFIG [key=value ...]`: what `mmclr train` does, in every process."""

import sys

from mmclr.display import output

output.guard()  # before anything is opened

from mmclr.display.secrets import redact  # noqa: E402
from mmclr.errors import run  # noqa: E402
from mmclr.runtime.allocator import keep_freed_memory  # noqa: E402
from mmclr.train.command import main  # noqa: E402

keep_freed_memory()
given = sys.argv[1:]
sys.argv[1:] = map(redact, given)  # trackers keep it with the run
with output.swallowed(True):
    sys.exit(run("mmclr train", main, given))
