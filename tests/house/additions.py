"""One small addition of each kind: the files that are written by hand, by path, and the lines of tables, by anchor.

Each brings its own test, which test_additions.py runs in a copy of the repository.
"""

from __future__ import annotations

OBJECTIVE = {
    "mmclr/losses/pairs/halved.py": '''"""Half the distance of a pair."""

from torch import Tensor

from mmclr import parallel
from mmclr.losses.objective import Objective


class Halved(Objective, key="halved", cost="local"):
    """Bring the two of a pair together.

    Nobody, 2026, no arXiv: L = mean_i (1 - <image_i, text_i>) / share.
    Reduces to: alignment, up to a factor.
    Differs from the paper: there is none.
    """

    share: float = 2.0  # of the distance

    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean((1 - (image * text).sum(1)) / self.share, weights)
''',
    "tests/losses/test_halved.py": """import torch

from mmclr.losses import build
from mmclr.papers.catalogue import entries


def test_it_is_half_the_distance():
    x = torch.eye(2)
    assert build("halved", {})(image=x, text=x.flip(0), weights=torch.ones(2)).item() == 0.5
    assert "halved" in {entry.key for entry in entries()}
""",
}
PROVIDER = {
    "mmclr/features/upright.py": '''"""The image features with the sign of the first turned to plus."""

from __future__ import annotations

from mmclr.features.provider import Provider


class Upright(Provider, key="upright"):
    """Turn each vector so that its first feature is positive."""

    provides = frozenset({"upright_image"})
    asks = frozenset({"image"})

    def forward(self, batch, wanted, found, progress):
        return {"upright_image": found["image"] * found["image"][:, :1].sign()}
''',
    "tests/features/test_upright.py": """import torch

from mmclr.features.provider import build_providers


def test_the_first_feature_is_positive():
    made = build_providers({"up": {"use": "upright"}})["up"]
    out = made(None, {"upright_image"}, {"image": torch.randn(5, 3)}, 0.0)["upright_image"]
    assert (out[:, 0] > 0).all()
""",
}
PROVIDER_ROW = (
    "mmclr/vocabulary.py",
    '    "frozen_image": Feature(\n',
    '    "upright_image": Feature("[b, D]", "upright", "image features, first one positive", unit("b", "D")),\n',
)
FIELD_ROW = (
    "mmclr/batch_fields.py",
    '    "target":   Row(',
    '    "price":    Row("number", "what the thing in the image costs, NaN where it is missing"),\n',
)
FIELD_PROOF = {
    "tests/data/test_price.py": """import torch

from mmclr import vocabulary
from mmclr.config import load
from mmclr.losses.objective import Objective
from mmclr.train.run import RunConfig


class Cheap(Objective, key="cheap", cost="local"):
    def forward(self, price, weights):
        return (price.nan_to_num() * weights).mean()


def test_objectives_and_configs_know_it():
    assert vocabulary.FEATURES["price"].provider == "batch"
    assert Cheap.needs == ("price", "weights")
    run = load(RunConfig, "base.yaml", ["data.train=x.tar", "data.fields={price: json:cost}"])
    assert run.data.fields["price"] == "json:cost"
""",
}
EVALUATION = {
    "eval/suites/geometry/own_count.py": '''"""Count the images of a set."""

from mmclr.eval.result import Result
from mmclr.eval.suite import Suite


def run(embedder, data, args):
    facts = {"task": "own_count", "dataset": data.name, "model": "none"}
    return Result.of({"images": len(data)}, sizes={"images": len(data)}, seconds=0.0, **facts)


suite = Suite("own_count", __doc__, "examples:\\n  mmclr eval own_count MODEL --data SET\\n", run=run)
main = suite.main
''',
    "tests/eval/test_own_count.py": """from mmclr.cli import commands
from mmclr.eval import suites


def test_it_is_a_command_and_an_evaluation_of_trainings():
    assert commands()["eval own_count"] == "mmclr.eval.suites.geometry.own_count"
    assert suites.find("own_count").name == "own_count"
""",
}
TOOL = {
    "data_tools/commands/inspect/own_total.py": '''"""Say how many bytes shards have."""

import argparse
from pathlib import Path


def main(argv):
    """Print the sum."""
    parser = argparse.ArgumentParser(description="Add up the bytes.", epilog="example: mmclr data own-total a.tar")
    parser.add_argument("shards", nargs="+", type=Path)
    print(sum(path.stat().st_size for path in parser.parse_args(argv).shards))
''',
    "tests/data/test_own_total.py": """import sys

from mmclr import cli

WRITES = {"data own-total": ["SHARD"]}


def test_it_is_a_command(tmp_path, capsys):
    (tmp_path / "a.tar").write_bytes(b"12345")
    assert not cli.main(["data", "own-total", str(tmp_path / "a.tar")])
    assert capsys.readouterr().out.strip() == "5"
""",
}
ORDER = {
    "mmclr/data/stream/orders/backwards.py": '''"""The samples from the last to the first."""

from __future__ import annotations

import numpy as np

from mmclr.data.stream.order import Order


class Backwards(Order, key="backwards"):
    """Go through the samples from the end."""

    def setup(self, stream):
        """Learn how many there are."""
        self.length = sum(stream.sizes)

    def at(self, positions):
        """Return sample and epoch."""
        epoch, place = np.divmod(positions, self.length)
        return self.length - 1 - place, epoch

    def others(self, sample, words):
        """Return any."""
        return (words % np.uint64(self.length)).astype(np.int64)

    def identity(self):
        """Return nothing: it has no settings."""
        return {"backwards": True}
''',
    "tests/data/test_backwards.py": """import numpy as np

from mmclr.data.stream import order


def test_it_is_found_by_its_key():
    made = order.build("backwards")
    made.setup(order.Stream(sizes=[3], weights=[1.0], seed=0, batch=1, labels=lambda name: None))
    sample, epoch = made.at(np.arange(4))
    assert (sample.tolist(), epoch.tolist()) == ([2, 1, 0, 2], [0, 0, 0, 1])
""",
}
HEAD = {
    "mmclr/heads/turned.py": '''"""A head that turns vectors about."""

from __future__ import annotations

from mmclr.heads.head import Head, HeadConfig


class TurnedHead(Head):
    """Change the sign of all features."""

    def forward(self, x, side, weights=None):
        """Return -x."""
        return -x


class Turned(HeadConfig, key="turned"):
    """Change all signs.

    Nobody, 2026, no arXiv: h(x) = -x.
    Reduces to: nothing in front of it, for cosines of both sides.
    Differs from the paper: there is none.
    """

    def make(self, width):
        """Return the head."""
        head = TurnedHead()
        head.width = width
        return head
''',
    "tests/models/test_turned.py": """import torch

from mmclr.losses.weighted_sum import build_terms


def test_a_config_puts_it_before_an_objective():
    term = build_terms({"clip": {"head": {"use": "turned"}}})["clip"]
    assert (term.objective.how.make(2)(torch.ones(1, 2), "image") == -1).all()
""",
}
LIBRARY = {
    "mmclr/models/foreign/libraries/mine.py": '''"""A library of towers like transformers."""

from mmclr.models.foreign.libraries.transformers import Image, Text, describe, fill_tower

__all__ = ["Image", "Text", "describe", "fill_tower"]
''',
    "tests/models/test_mine.py": """import json

from mmclr.config import check
from mmclr.models.config import ModelConfig
from mmclr.models.resolve import resolve

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def test_its_towers_are_described(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", **SIZES, "image_size": 32, "patch_size": 8}))
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(half))
    foreign = {"source": f"mine:{tmp_path}", "pool": "cls"}
    config = resolve(check(ModelConfig, {"preset": "icons", "image": {"foreign": foreign}}))
    assert config.image.foreign.library == "mine"
    assert config.image.width == 16
""",
}
FORMAT = {
    "mmclr/export/commands/own_format.py": '''"""Write a folder of my own format."""

from mmclr.export.format import Format

FORMAT = Format("own.bin", "own", "Call it {name}.")


def main(argv):
    """Write it."""
''',
    "tests/export/test_own_format.py": """from mmclr.cli import commands
from mmclr.export.commands import verify


def test_it_is_a_command_whose_folders_are_told(tmp_path):
    assert "export own_format" in commands()
    (tmp_path / "own.bin").touch()
    assert verify._module(tmp_path).__name__ == "mmclr.export.commands.own_format"
""",
}

# kind: files written by hand (its own test among them), lines in tables, files at most, a proof that is no part of it
KINDS = {
    "objective": (OBJECTIVE, (), 2, {}),
    "provider": (PROVIDER, (PROVIDER_ROW,), 3, {}),
    "batch field": ({}, (FIELD_ROW,), 1, FIELD_PROOF),
    "evaluation": (EVALUATION, (), 2, {}),
    "data tool": (TOOL, (), 2, {}),
    "order": (ORDER, (), 2, {}),
    "head": (HEAD, (), 2, {}),
    "library of towers": (LIBRARY, (), 3, {}),
    "export format": (FORMAT, (), 3, {}),
}
