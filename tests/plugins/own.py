"""Parts of one's own as texts, and how they come to be files and installed packages."""

OWN = '''
from __future__ import annotations
from torch import Tensor
from mmclr import parallel
from mmclr.losses.objective import Objective

class Own(Objective, key="{key}", cost="local"):
    """Mine."""

    power: float = 2.0  # of the distance

    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean((image - text).abs().pow(self.power).sum(1), weights)
'''
HEAD = '''
from torch.nn import functional as F
from mmclr.heads import Head, HeadConfig

class Turn(Head):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x, side, weights=None):
        return F.normalize(x.flip(-1), dim=-1)

class Turned(HeadConfig, key="{key}"):
    """Turned round."""

    by: int = 1  # steps

    def make(self, width):
        return Turn(width)
'''
SHOUT = '''
from mmclr import plugins

@plugins.command("{name}")
def shout(words):
    """Say it loudly."""
    print(" ".join(words).upper())
    return 3
'''
SUITE = """
from mmclr import plugins
from mmclr.eval.suite import Suite

def run(embedder, data, args):
    raise SystemExit(f"{{args.data}} is looked at")

suite = plugins.suite(Suite(name="{name}", about="Count.", examples="", run=run, open=lambda args: None))
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def install(folder, name, text):
    """Write a package as pip installs it: a module, and what it says of itself."""
    write(folder / f"{name}.py", text)
    about = folder / f"{name}-0.1.dist-info"
    about.mkdir()
    write(about / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    write(about / "entry_points.txt", f"[mmclr.plugins]\nparts = {name}\n")


ALL = '''
"""One part of each kind that a run takes."""
import sys
import numpy as np
import torch
from torch import nn
from mmclr import vocabulary
from mmclr.data.stream.order import Order
from mmclr.eval.result import Result
from mmclr.eval.suite import Suite
from mmclr.features.provider import Provider
from mmclr.losses.objective import Objective
from mmclr.models.foreign import libraries
from mmclr.models.tower import LibraryTower
from mmclr.random_features import unit
from mmclr.reweighters import Reweighter
from mmclr import parallel, plugins

vocabulary.add("mirrored", vocabulary.Feature("[b, D]", "mirror", "image features, signs changed", unit("b", "D")))

class Mirror(Provider, key="mirror"):
    """Change the signs."""
    provides, asks = frozenset({"mirrored"}), frozenset({"image"})

    def forward(self, batch, wanted, found, progress):
        return {"mirrored": -found["image"]}

class Apart(Objective, key="apart", cost="local"):
    """Bring a caption to the mirrored image."""
    def forward(self, mirrored, text, weights):
        return parallel.mean(1 - (mirrored * text).sum(1), weights)

class Halves(Reweighter, key="halves"):
    """Let every other sample count."""
    def forward(self, index):
        return (index % 2).float()

class Backwards(Order, key="own_backwards"):
    """Go through the samples from the end."""
    def setup(self, stream):
        self.length = sum(stream.sizes)

    def at(self, positions):
        epoch, place = np.divmod(positions, self.length)
        return self.length - 1 - place, epoch

    def others(self, sample, words):
        return (words % np.uint64(self.length)).astype(np.int64)

    def identity(self):
        return {"own_backwards": True}

class Image(LibraryTower):
    """One convolution, and the mean over its places."""
    part = "image"

    def __init__(self, c):
        super().__init__()
        self.model = nn.Conv2d(3, c.width, c.patch, c.patch)

    def forward(self, pixels, keep=None):
        return self.model(pixels).mean((2, 3))

Text = None

def describe(part, folder):
    width = int((folder / "width.txt").read_text())
    return {"size": 32, "patch": 8, "width": width, "layers": 1, "heads": 1, "mlp": 1, "mean": [0.5] * 3,
            "std": [0.5] * 3, "foreign": {"architecture": {"width": width}}}

def fill_tower(part, tower, folder):
    nn.init.constant_(tower.model.bias, 0.25)

libraries.register("own_towers", sys.modules[__name__])

def run(embedder, data, args):
    rows = embedder.images(data).images
    facts = {"task": "own_norms", "dataset": data.name, "model": embedder.name}
    return Result.of({"norm": float(rows.norm(dim=1).mean())}, sizes={"images": len(rows)}, seconds=0.0, **facts)

plugins.suite(Suite(name="own_norms", about="Average the norms.", examples="", run=run))
'''
