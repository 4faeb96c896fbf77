"""Small additions of the kinds that a training does not need: see additions.py."""

from __future__ import annotations

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
    "tests/eval/test_own_count.py": """import json

from mmclr.cli import main
from mmclr.eval.result import Result
from tests import parts
from tests.exports import write_checkpoint


def test_it_is_a_command_and_an_evaluation_of_trainings(tmp_path):
    words = [str(write_checkpoint(tmp_path / "m")), "--data", parts.shard(tmp_path / "1.tar")]
    assert not main(["eval", "own_count", *words, "--out", str(tmp_path / "r.json")])
    assert Result.load(tmp_path / "r.json").metrics == {"images": 32}
    parts.run(tmp_path, f"evaluate={{mine: {{suite: own_count, data: '{tmp_path / '1.tar'}'}}}}")
    assert json.loads((tmp_path / "run" / "eval" / "mine.json").read_text())["metrics"] == {"images": 32}
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
SCORER = {
    "mmclr/scorers/words.py": '''"""How many words a caption has."""

from mmclr.scorers.scorer import Scorer


class Words(Scorer, key="words"):
    """Count the words of a text."""

    def score(self, texts):
        return [len(text.split()) for text in texts]
''',
    "tests/data/test_words.py": """from mmclr.cli import main
from mmclr.data import columns
from mmclr.data.shards.index import open_indices
from tests import parts


def test_it_makes_a_column(tmp_path):
    shard = parts.shard(tmp_path / "0.tar")
    assert not main(["data", "score", shard, "words"])
    (index,) = open_indices([shard])
    assert columns.open_column(index, "words")[1].tolist() == [3.0] * 32
""",
}
LIBRARY = {
    "mmclr/models/foreign/libraries/mine.py": '''"""Towers of one convolution."""

import json

import torch
from safetensors.torch import load_file
from torch import nn

from mmclr.models.tower import LibraryTower

Text = None  # there are none


def describe(part, folder):
    """Say what the folder's config says."""
    tree = json.loads((folder / "config.json").read_text())
    sizes = {"size": 32, "patch": tree["patch"], "width": tree["width"], "layers": 1, "heads": 1, "mlp": 1}
    return {**sizes, "mean": [0.5] * 3, "std": [0.5] * 3, "foreign": {"architecture": tree}}


class Image(LibraryTower):
    """A convolution of patches, and the mean over them."""

    part = "image"

    def __init__(self, c):
        super().__init__()
        self.model = nn.Conv2d(3, c.width, c.patch, c.patch)

    def forward(self, pixels, keep=None):
        """Pixels [b, 3, H, W] -> features [b, width]."""
        return self.model(pixels).mean((2, 3))


def fill_tower(part, tower, folder):
    """Load the weights."""
    tower.model.load_state_dict(load_file(folder / "model.safetensors"))
''',
    "tests/models/test_mine.py": """import json

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import mmclr
from tests import parts


def test_a_run_begins_with_its_weights_and_the_model_embeds(tmp_path):
    folder = tmp_path / "tower"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"width": 6, "patch": 8}))
    weights = {"weight": torch.randn(6, 3, 8, 8), "bias": torch.randn(6)}
    save_file(weights, folder / "model.safetensors")
    foreign = f"model.image.foreign={{source: 'mine:{folder}', projection: false}}"
    parts.run(tmp_path, foreign, "model.embed=6", "lock={image: true}")
    pixels = torch.randn(4, 3, 32, 32)
    found = mmclr.load(tmp_path / "run", device="cpu").encode_image(pixels, output="torch")
    want = F.conv2d(pixels, **weights, stride=8).mean((2, 3))
    torch.testing.assert_close(found, F.normalize(want, dim=-1))
""",
}
FORMAT = {
    "mmclr/export/commands/own_format.py": '''"""Write a folder of my own format."""

import argparse
import json
from pathlib import Path

from mmclr.config import check, to_tree
from mmclr.export import card, parity
from mmclr.export.format import Format
from mmclr.export.origin import Source, add_arguments, written
from mmclr.data.samples.text import Tokenizer
from mmclr.models.config import ModelConfig
from mmclr.models.formats.weights import load_weights, read_weights, write_weights
from mmclr.models.two_tower import TwoTower

FORMAT = Format("own.json", "own", "Call it {name}.")


def main(argv):
    """Write it."""
    parser = argparse.ArgumentParser(description="Write it.", epilog="example: mmclr export own_format runs/a out")
    add_arguments(parser)
    parser.add_argument("out")
    args = parser.parse_args(argv)
    write(Source.open(args.checkpoint, args.weights), Path(args.out))


def write(source, out, about=None):
    """Write a folder and return the largest differences to its source."""
    with written(out, source) as partial:
        fill(source, partial, out.name)
        differences = parity.compare(source, load(partial))
        parity.insist(source, differences, partial)
        card.write(partial, source, differences, out.name, about or card.About(), FORMAT)
    return differences


def fill(source, folder, name):
    """Write config, weights and tokenizer."""
    (folder / "own.json").write_text(json.dumps(to_tree(source.model.config)))
    write_weights(dict(source.model.state_dict()), folder / "own.safetensors")
    source.tokenizer.save(folder)


def load(folder):
    """Return what is in a folder."""
    config = check(ModelConfig, json.loads((folder / "own.json").read_text()))
    weights = read_weights(folder / "own.safetensors")
    model = TwoTower(config, bias="logit_bias" in weights).eval()
    load_weights(model, weights, str(folder))
    words = Tokenizer.load(folder, config.text.context)
    return parity.Peer(
        image=model.encode_image,
        text=lambda texts: model.encode_text(*words(texts)),
        ids=words.encode,
        pixels={"pixels": lambda images: parity.prepare(images, config.image)},
    )
''',
    "tests/export/test_own_format.py": """import pytest

from mmclr.cli import main
from tests.exports import write_checkpoint

WRITES = {"export own_format": ["{here}/model", "{out}/model"]}


def test_what_it_writes_is_verified(tmp_path, capsys):
    run, out = str(write_checkpoint(tmp_path / "run")), tmp_path / "out"
    assert not main(["export", "own_format", run, str(out)])
    assert "Call it out." in (out / "README.md").read_text()
    assert not main(["export", "verify", str(out), run])
    assert "largest difference of image features: " in capsys.readouterr().out
    other = str(write_checkpoint(tmp_path / "other", names=("average", "model")))
    assert main(["export", "verify", str(out), other]) == 2
    assert "does not agree with the checkpoint" in capsys.readouterr().err
""",
}
