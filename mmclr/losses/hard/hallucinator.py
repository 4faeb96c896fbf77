"""A further positive of each pair that is harder than the pair itself, made in the space of features."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mmclr import parallel, sample_random
from mmclr.errors import UserError
from mmclr.heads.mlp import MLP
from mmclr.losses.algebra import dual_lse
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Facts, Objective


class Hallucinator(Objective, key="hallucinator"):
    """Find each pair's other half also where it was moved away from the anchor, and smoothed by a small network.

    Wu et al., Hallucination Improves the Performance of Unsupervised Visual Representation Learning, ICCV 2023, arXiv
    2307.12168. The formula is derived from its abstract. With lam uniform on 0 to lam_max, an MLP f of each modality:
    e_i = text_i + lam (text_i - sg(image_i)),  h_i = unit(e_i + rho f(e_i)),  n_i = log sum_{j != i} exp s_ij,
    L = mean_i [ softplus(n_i - s_ii) + extra * softplus(n_i - scale * <image_i, h_i>) ], halved with the same of
    captions; s_ij = scale * <image_i, text_j>, so that the negatives of both are one sum.
    Reduces to: clip for extra 0 and before `begin`; (1 + extra) * clip for lam_max 0 and rho 0.
    Differs from the paper: whose equations are not known. The source sg(image) is constant, lest it learn to shrink the
    move; f begins at 0 and has LayerNorm.
    """

    lam_max: float = 1.0  # largest move, in distances of the pair, >= 0
    rho: float = 1.0  # weight of the network's part, >= 0; 0: no network
    extra: float = 1.0  # weight of the further positives, >= 0
    hidden: int = 1  # units of the network's hidden layer, as a multiple of D, >= 1
    begin: float = 0.1  # share of the training before they count, 0 to 1
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def __post_init__(self) -> None:
        if min(self.lam_max, self.rho, self.extra) < 0 or self.hidden < 1:
            raise ValueError("lam_max, rho and extra are at least 0, and hidden is at least 1")

    def setup(self, facts: Facts) -> None:
        if self.rho:
            self.of_image, self.of_text = (smoother(facts.width, self.hidden) for _ in "it")

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        index: Tensor,
        image_id: Tensor,
        caption_id: Tensor,
        weights: Tensor,
        progress: Tensor,
    ) -> Tensor:
        same = not_negatives(self.duplicates, image_id, caption_id)
        row, col, pair, *_ = dual_lse(image, text, scale, exclude=same)
        lam = self._moves(index, 2).to(image.dtype)
        of_text = hallucinate(text, image.detach(), lam[:, :1], self._network("of_text"), self.rho)
        of_image = hallucinate(image, text.detach(), lam[:, 1:], self._network("of_image"), self.rho)
        of_row, of_col = scale * (image * of_text).sum(1) - row, scale * (text * of_image).sum(1) - col
        more = self._weight(progress) * (F.logsigmoid(of_row) + F.logsigmoid(of_col))
        return -parallel.mean(F.logsigmoid(pair - row) + F.logsigmoid(pair - col) + more, weights) / 2

    def _moves(self, index: Tensor, count: int) -> Tensor:
        return self.lam_max * sample_random.uniform(index, sample_random.seed(index), count)

    def _network(self, name: str) -> nn.Module | None:
        return getattr(self, name) if self.rho else None

    def _weight(self, progress: Tensor) -> float:
        """Return what further positives count: 0 until `begin`, when networks still get their gradient of 0."""
        return self.extra * bool(progress >= self.begin)


class HallucinatorTexts(Hallucinator, key="hallucinator_texts"):
    """Find each image's caption also where it was moved away from the image's second caption, and smoothed.

    Wu et al., Hallucination Improves the Performance of Unsupervised Visual Representation Learning, ICCV 2023, arXiv
    2307.12168. The formula is derived from its abstract. As hallucinator, with the second caption for its source, so
    that the move stays among captions: e_i = text_i + lam (text_i - sg(second_i)),  h_i = unit(e_i + rho f(e_i)),
    L_image = mean_i [ softplus(n_i - s_ii) + extra * softplus(n_i - scale * <image_i, h_i>) ], n_i as there,
    L = (L_image + L_text) / 2 with clip's L_text: an image has no second one that it could move away from.
    Reduces to: clip for extra 0 and before `begin`; without network, each i with two equal captions counts 1 + extra.
    Differs from the paper: whose equations are not known; as hallucinator. Wants data.texts: 2.
    """

    def setup(self, facts: Facts) -> None:
        if self.rho:
            self.of_text = smoother(facts.width, self.hidden)

    def forward(
        self,
        image: Tensor,
        texts: Tensor,
        scale: Tensor,
        index: Tensor,
        image_id: Tensor,
        caption_id: Tensor,
        weights: Tensor,
        progress: Tensor,
    ) -> Tensor:
        if texts.shape[1] < 2:
            raise UserError(
                "hallucinator_texts moves captions away from a second one of their image: set data.texts: 2"
            )
        text, second = texts[:, 0], texts[:, 1]
        same = not_negatives(self.duplicates, image_id, caption_id)
        row, col, pair, *_ = dual_lse(image, text, scale, exclude=same)
        lam = self._moves(index, 1).to(image.dtype)
        moved = hallucinate(text, second.detach(), lam, self._network("of_text"), self.rho)
        more = self._weight(progress) * F.logsigmoid(scale * (image * moved).sum(1) - row)
        return -parallel.mean(F.logsigmoid(pair - row) + F.logsigmoid(pair - col) + more, weights) / 2


def hallucinate(x: Tensor, source: Tensor, lam: Tensor, network: nn.Module | None, rho: float) -> Tensor:
    """Return unit(e + rho network(e)) of e = x + lam (x - source): x, source [b, D], lam [b, 1]."""
    e = x + lam * (x - source)
    return F.normalize(e if network is None else e + rho * network(e), dim=1)


def smoother(width: int, hidden: int) -> MLP:
    """Return a perceptron of one hidden layer, `hidden` times as wide, that gives 0 at first."""
    network = MLP([width, hidden * width, width], norm="layer")
    nn.init.zeros_(network.out.weight)
    nn.init.zeros_(network.out.bias)
    return network
