"""Captions told token by token: the second loss of CoCa."""

from torch import Tensor

from mmclr import parallel
from mmclr.losses.algebra import token_entropy
from mmclr.losses.objective import Objective


class Caption(Objective, key="caption", cost="local"):
    """Tell each token of a caption from the image and the tokens before it.

    Yu et al., CoCa: Contrastive Captioners are Image-Text Foundation Models, TMLR 2022, arXiv 2205.01917.
    L = sum over the tokens t of the global batch of share_t * CE(caption_states_t . caption_words, target_t),
    CE's target being 1 - label_smoothing of the next token and the rest evenly of all.
    Beside clip: {} its weight in the paper is 2. Needs model.captioner, and generates with `mmclr caption`.
    Reduces to: the mean cross-entropy per token, where all samples weigh the same; its exponential is the perplexity.
    Differs from the paper: no class token behind the text, so texts are pooled where they are without a captioner.
    """

    label_smoothing: float = 0.0  # share of the target that goes evenly to all tokens, 0 to 1
    chunk_mib: int = 64  # memory for logits, MiB

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing is a share, 0 to 1, not {self.label_smoothing}")

    def forward(
        self, caption_states: Tensor, caption_words: Tensor, caption_targets: Tensor, caption_shares: Tensor
    ) -> Tensor:
        told = caption_shares > 0
        return parallel.total(
            token_entropy(
                caption_states[told],
                caption_words,
                caption_targets[told],
                caption_shares[told],
                smoothing=self.label_smoothing,
                chunk_bytes=self.chunk_mib << 20,
            )
        )
