"""The small batches on which the papers' cards work out their numbers by hand."""

import torch

from mmclr.losses import build

# Batches of three pairs in the plane: (images, captions).
F3 = ([(1, 0), (0.6, 0.8), (0, 1)], [(0.8, 0.6), (0, 1), (-0.28, 0.96)])
GAP = ([(1, 0), (0, 1), (0.6, 0.8)], [(0.8, 0.6), (-0.6, 0.8), (1, 0)])


def batch(pairs, tau=1.0, **more):
    """Return the features of an objective for pairs of points; whatever else it asks for comes in `more`."""
    image, text = (torch.tensor(side, dtype=torch.float64).requires_grad_() for side in pairs)
    b = len(image)
    return {
        "image": image,
        "text": text,
        "texts": text[:, None],
        "scale": torch.tensor(1 / tau, dtype=torch.float64),
        "image_id": torch.arange(b),
        "caption_id": torch.arange(b),
        "weights": torch.ones(b, dtype=torch.float64),
    } | more


def evaluate(key, pairs, tau=1.0, fields=None, **more):
    """Return the value of an objective on pairs of points."""
    objective = build(key, fields or {})
    features = batch(pairs, tau, **more)
    return objective(**{name: features[name] for name in objective.needs})


def random_pairs(b, D=8, seed=0):
    """Return random unit vectors as pairs of points."""
    g = torch.Generator().manual_seed(seed)
    image, text = (torch.nn.functional.normalize(torch.randn(b, D, generator=g, dtype=torch.float64)) for _ in "ab")
    return image.tolist(), text.tolist()
