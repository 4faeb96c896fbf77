"""One small addition of each kind: the files that are written by hand, by path, and the lines of tables, by anchor.

Each brings its own test, which test_additions.py runs in a copy of the repository; here those that a training takes.
"""

from __future__ import annotations

from tests.house.additions_beside import EVALUATION, FORMAT, LIBRARY, SCORER, TOOL

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
from tests import parts


def test_a_run_takes_half_the_distance(tmp_path):
    x = torch.eye(2)
    assert build("halved", {})(image=x, text=x.flip(0), weights=torch.ones(2)).item() == 0.5
    rows = parts.run(tmp_path, "objectives={halved: {share: 4.0}}")
    assert all(0 < row["halved"] <= 0.5 for row in rows)
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
from tests import parts


def test_an_objective_takes_what_it_makes(tmp_path):
    made = build_providers({"up": {"use": "upright"}})["up"]
    out = made(None, {"upright_image"}, {"image": torch.randn(5, 3)}, 0.0)["upright_image"]
    assert (out[:, 0] > 0).all()
    words = ["providers={up: {use: upright}}", "objectives={up: {use: clip, inputs: {image: upright_image}}}"]
    plain, turned = parts.run(tmp_path / "a")[0], parts.run(tmp_path / "b", *words)[0]
    assert turned["up"] != turned["clip"] == plain["clip"]
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
    "tests/data/test_price.py": """import io
import json
import tarfile

import torch

from mmclr import parallel
from mmclr.losses.objective import Objective
from tests import parts

SEEN = []


class Cheap(Objective, key="cheap", cost="local"):
    def forward(self, price, image, weights):
        SEEN.append(price)
        return parallel.mean(price.nan_to_num() * image[:, 0].square(), weights)


def test_it_comes_from_the_json_to_an_objective(tmp_path, monkeypatch):
    def priced(path):
        with tarfile.open(shard(path), "a") as tar:
            for i in range(0, 32, 2):
                data = json.dumps({"cost": i + 0.5}).encode()
                info = tarfile.TarInfo(f"{i:03d}.json")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return str(path)

    shard = parts.shard
    monkeypatch.setattr(parts, "shard", priced)
    rows = parts.run(tmp_path, "objectives={cheap: {}}", "data.fields={price: json:cost}")
    assert all(row["cheap"] > 0 for row in rows)
    found = torch.cat(SEEN).unique()
    assert set(found[~found.isnan()].tolist()) <= {i + 0.5 for i in range(0, 32, 2)}
    assert found.isnan().any()
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

from mmclr.config import load
from mmclr.data.samples.text import Tokenizer
from mmclr.data.stream import order
from mmclr.data.stream.loader import DataConfig, Loader
from tests import parts


def test_it_is_found_by_its_key():
    made = order.build("backwards")
    made.setup(order.Stream(sizes=[3], weights=[1.0], seed=0, batch=1, labels=lambda name: None))
    sample, epoch = made.at(np.arange(4))
    assert (sample.tolist(), epoch.tolist()) == ([2, 1, 0, 2], [0, 0, 0, 1])


def test_a_loader_gives_batches_in_it(tmp_path):
    config = load(DataConfig, {"train": parts.shard(tmp_path / "0.tar"), "batch": 8, "order": "backwards"})
    words = Tokenizer.train(["colour number"] * 9, 600, context=16)
    batch = next(iter(Loader(config, words, 32, seed=0)))
    assert list(batch.keys) == [f"{i:03d}" for i in range(31, 23, -1)]
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
from tests import parts


def test_a_run_puts_it_before_an_objective(tmp_path):
    term = build_terms({"clip": {"head": {"use": "turned"}}})["clip"]
    assert (term.objective.how.make(2)(torch.ones(1, 2), "image") == -1).all()
    both = parts.run(tmp_path, "objectives={turned: {use: clip, head: {use: turned}}}")
    assert all(abs(row["turned"] - row["clip"]) < 1e-5 for row in both)  # a cosine keeps its sign
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
    "scorer": (SCORER, (), 2, {}),
    "library of towers": (LIBRARY, (), 3, {}),
    "export format": (FORMAT, (), 3, {}),
}
