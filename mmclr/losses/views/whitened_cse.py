"""Several whitened versions of each embedding, each with features shuffled another way."""

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from mmclr import parallel
from mmclr.heads.whitening import Whiten
from mmclr.losses.algebra import dual_lse
from mmclr.losses.negatives import Duplicates, not_negatives
from mmclr.losses.objective import Facts, Objective


class WhitenedCSE(Objective, key="whitened_cse"):
    """Whiten embeddings in groups of features, several ways at once, and contrast each way of images and of captions.

    Zhuo et al., Whitening-based Contrastive Learning of Sentence Embeddings, ACL 2023, arXiv 2305.17746. With u_a, v_b
    the embeddings of images and captions through the head `whiten` by shuffles a, b = 1 ... copies:
    L = mean over a, b of InfoNCE(u_a, v_b), both directions halved.
    Reduces to: clip with that head, for one copy.
    Differs from the paper: both modalities instead of dropout copies of sentences, one head for each; statistics are
    those of the global batch; embeddings of unit length are whitened. With the head in use (`--head`), running averages
    of the statistics stand for a batch's.
    """

    copies: int = 2  # whitened versions of each embedding
    group: int = 4  # features that are whitened together, a divisor of D; well below the batch
    eps: float = 1e-4  # added to the covariance, as a share of its mean eigenvalue in the group
    detach: bool = True  # no gradient through the whitening matrix, as in the paper's code
    tail: bool = True  # a layer and tanh behind the whitening
    shared: bool = True  # images and captions are shuffled alike
    momentum: float = 0.99  # of the running averages of mean and covariance
    duplicates: Duplicates = "mask"  # what equal captions or equal images are to each other

    def setup(self, facts: Facts) -> None:
        how = Whiten(group=self.group, eps=self.eps, detach=self.detach, tail=self.tail, momentum=self.momentum)
        self.head = how.make(facts.width)

    def forward(
        self, image: Tensor, text: Tensor, scale: Tensor, image_id: Tensor, caption_id: Tensor, weights: Tensor
    ) -> Tensor:
        same = not_negatives(self.duplicates, image_id, caption_id)
        shuffles = [torch.randperm(self.head.width) for _ in range(self.copies)]
        others = shuffles if self.shared else [torch.randperm(self.head.width) for _ in range(self.copies)]
        images = self.head.copies(image, "image", shuffles, weights)
        texts = self.head.copies(text, "text", others, weights)
        loss = torch.zeros_like(weights)
        for x, y in itertools.product(images, texts):
            lse = dual_lse(x, y, scale, exclude=same)
            loss = loss - F.logsigmoid(lse.pair - lse.row) - F.logsigmoid(lse.pair - lse.col)
        return parallel.mean(loss, weights) / (2 * self.copies**2)

    def after_step(self) -> None:
        self.head.after_step()
