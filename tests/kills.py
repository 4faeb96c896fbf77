"""Kill a piece of work in each of its calls that change the disk, one after the other."""

import os
import signal
import traceback

CALLS = ("write", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "link", "symlink")


def kill_at_every_call(work, check, prepare=None, stride=1, first=1):
    """Do `work` in a fork that is killed in its 1st, 2nd, ... such call; after each call check(number) here.

    The kill comes before the call is made. `prepare` is done here before each. Returns how many calls there are.
    """
    number = first
    while True:
        if prepare:
            prepare()
        pid = os.fork()
        if pid == 0:
            _work(work, number)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the work itself failed"
            check(number)
            return number - 1
        assert os.WTERMSIG(status) == signal.SIGKILL
        check(number)
        number += stride


def _work(work, number):
    count = [0]

    def counted(real):
        def call(*args, **kwargs):
            count[0] += 1
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
