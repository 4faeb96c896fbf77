"""A run that is killed again and again: python torture.py KILLS SEED [overrides].

Everything is imported once, and each attempt is a fork, so that an attempt costs no start. A kill comes after a random
time, or, every other time, as soon as a checkpoint is being written.
"""

import os
import random
import signal
import sys
import time

import mmclr.train.trainer as trainer
from mmclr.config import load
from mmclr.train.run import RunConfig


def main(kills, seed, settings):
    run = load(RunConfig, "debug.yaml", settings)
    chance, inside, between = random.Random(seed), 0, 0
    checkpoints = run.folder / "checkpoints"
    while inside + between < kills:
        pid = os.fork()
        if pid == 0:
            trainer.train(run, quiet=True)
            os._exit(0)
        if inside <= between:
            wait_until(lambda: list(checkpoints.glob(".partial-*")), 60)
        else:
            count = len(list(checkpoints.glob("step-*/position.json")))
            chance.random() < 0.3 or wait_until(lambda n=count: newer(checkpoints, n), 60)
            time.sleep(chance.uniform(0, 0.3))
        os.kill(pid, signal.SIGSTOP)
        partial = bool(list(checkpoints.glob(".partial-*")))
        inside, between = inside + partial, between + (not partial)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"the run ended by itself, with status {status}, after {inside + between} kills: make it longer")
    trainer.train(run, quiet=True)
    print(f"killed {inside} times inside a save and {between} times elsewhere")


def newer(checkpoints, count):
    return len(list(checkpoints.glob("step-*/position.json"))) > count


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.001)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
