"""What `accelerate launch` runs in the tests of strategies: several short runs in the same processes.

python worker.py SETTINGS.json: {"shared": [overrides], "runs": {name: [overrides]}}. Each run goes to its own folder;
a name says what is done to it: "nan" breaks one sample's pixels at step 3, "scaled" trains as fp16 would, by a scaled
loss, but in float32.
"""

import json
import sys
from pathlib import Path

import torch

from mmclr import parallel
from mmclr.config import load
from mmclr.models.two_tower import TwoTower
from mmclr.train import parts, trainer
from mmclr.train.processes import join
from mmclr.train.run import RunConfig

PLAIN = TwoTower.normalise


def main(path):
    task = json.loads(Path(path).read_text())
    accelerator = join.join(2.0)
    for name, settings in task["runs"].items():
        run = load(RunConfig, "debug.yaml", [*task["shared"], *settings])
        train(name, run, accelerator)
    accelerator.end_training()


def train(name, run, accelerator):
    if name == "scaled":
        kind, parts.precision = parts.precision, lambda wanted: torch.float16
        made = trainer.Trainer(run, accelerator)
        parts.precision, made.step.precision = kind, None
        assert made.strategy.scale is not None
    else:
        made = trainer.Trainer(run, accelerator)
    if name == "nan":
        broken(made)
    made.fit(quiet=True)


def broken(made):
    """Let the global batch's last sample have pixels that are not numbers, in the third step."""
    step = made.take_step

    def take_step(batch):
        if made.taken == 2 and parallel.rank() == parallel.world() - 1:
            TwoTower.normalise = lambda self, pixels: spoil(PLAIN(self, pixels))
        out = step(batch)
        TwoTower.normalise = PLAIN
        return out

    made.take_step = take_step


def spoil(pixels):
    pixels[-1] = torch.nan
    return pixels


if __name__ == "__main__":
    main(sys.argv[1])
