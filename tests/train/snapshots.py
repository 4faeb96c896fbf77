"""Checkpoints without a training: tiny weights that tell their step."""

import torch

from mmclr.config import check
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train.checkpoints.folder import Snapshot
from tests.exports import tokenizer

TINY = {"width": 16, "layers": 1, "heads": 2, "mlp": 16}
TREE = {"preset": "icons", "embed": 8, "image": {"size": 32, **TINY}, "text": TINY}


def snapshot(step, words=None):
    """Return a whole checkpoint after `step` steps."""
    t = words or tokenizer()
    torch.manual_seed(step)
    model = TwoTower(with_tokenizer(check(ModelConfig, TREE), t.vocab_size, t.bos_id, t.eos_id, t.pad_id))
    return Snapshot(
        config=f"optim: {{kind: adamw}}\nseed: {step}\n",
        models={"model": model, "average": model},
        tokenizer=t,
        objectives={"clip.x": torch.tensor([float(step)])},
        ema={},
        optimizer={"a": torch.full((5,), float(step))},
        position={
            "step": step,
            "loader": {"position": step * 16},
            "guard": {"recent": [float("nan"), 0.1]},
            "scale": None,
            "best": {},
        },
    )
