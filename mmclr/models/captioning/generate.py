"""Writing captions with a trained model, and how likely it finds captions that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr.config import to_tree
from mmclr.errors import UserError
from mmclr.models.captioning.decoding import Decoding
from mmclr.models.two_tower import TwoTower

LOGIT_BYTES = 64 << 20  # of logits at a time, when captions are scored


class Writer:
    """Pixels to captions. The weights are those of the model that it was made from, not copies."""

    def __init__(self, model: TwoTower) -> None:
        if model.captioner is None:
            raise UserError(
                "this model has no captioner; train one with model.captioner={} and the objective caption, as "
                "coca_b16.yaml does"
            )
        self.text, self.model = model.config.text, to_generate(model)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, how: Decoding = Decoding()) -> list[list[int]]:  # noqa: B008
        """Normalised pixels [b, C, H, W] -> the ids of b captions, without start and end."""
        longest = min(how.max_tokens or self.text.context, self.text.context - 2)
        with torch.random.fork_rng(_devices(pixels)):
            torch.manual_seed(how.seed)
            rows = self.model.generate(
                pixel_values=pixels,
                max_length=longest + 2,  # with start and end
                min_length=how.min_tokens + 1,
                num_beams=how.beams,
                do_sample=how.top_p > 0,
                **({"top_p": how.top_p, "temperature": how.temperature, "top_k": 0} if how.top_p else {}),
            )
        return [_body(row, self.text.eos)[:longest] for row in rows[:, 1:].tolist()]


def to_generate(model: TwoTower) -> Any:
    """Return the model as one of transformers that generates, with the same weights."""
    from transformers import GenerationConfig

    from mmclr.models.captioning.transformers_model import CaptionerConfig, CaptionerModel

    c = model.config
    assert c.captioner is not None
    trees = {name: to_tree(getattr(c, name)) for name in ("image", "text", "captioner")}
    with torch.device("meta"):
        peer = CaptionerModel(CaptionerConfig(**trees))
    state = model.state_dict()
    peer.load_state_dict({name: state[name] for name in peer.state_dict()}, assign=True)
    peer.generation_config = GenerationConfig(
        max_length=c.text.context,
        bos_token_id=c.text.bos,
        decoder_start_token_id=c.text.bos,
        eos_token_id=c.text.eos,
        pad_token_id=c.text.bos,  # behind the end; were it the end again, generate() would warn of padded inputs
    )
    return peer.eval()


@torch.no_grad()
def log_probabilities(model: TwoTower, pixels: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return the log-probability of each token but the first, given those before it and the image: [n, L - 1].

    Of the n texts [n, L] every n / b belong to one of the images [b, C, H, W]; behind a text's end are zeros.
    """
    states, words = model.encode_pairs(pixels, tokens, lengths)[2], model.words()
    followed = torch.arange(1, tokens.shape[1], device=tokens.device) < lengths[:, None]
    out = states.new_zeros(followed.shape, dtype=torch.float32)
    rows = max(1, LOGIT_BYTES // (4 * len(words)))
    found = [
        -F.cross_entropy((s @ words.T).float(), t, reduction="none")
        for s, t in zip(states[followed].split(rows), tokens[:, 1:][followed].split(rows))
    ]
    out[followed] = torch.cat(found)
    return out


def _body(row: Sequence[int], eos: int) -> list[int]:
    """Return the ids before the first end."""
    return list(row[: row.index(eos)] if eos in row else row)


def _devices(x: Tensor) -> list[int]:
    return [x.device.index or 0] if x.is_cuda else []
