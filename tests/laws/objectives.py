"""The catalogue as the laws see it: every objective in every setting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmclr import plugins
from mmclr.laws import Case, case
from mmclr.laws.case import gradients
from mmclr.laws.tolerance import close
from mmclr.losses import Objective, catalogue

__all__ = ["CASES", "NAMES", "OURS", "SETTINGS", "close", "features", "gradients", "make"]

# Settings beyond the defaults that take another path through an objective's code, by key.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "amcl": [{"form": "top", "k": 3}, {"heads": 1, "duplicates": "negative"}],
    "bacon": [{"clusters": 3, "refresh": 1, "reg": 0.3}],
    "beclr": [{"clusters": 3, "refresh": 1}, {"clusters": 2, "refresh": 1, "k": 1, "duplicates": "negative"}],
    "byolip": [{"head": {"use": "mlp", "hidden": 6, "out": 5}}],
    "cacr": [{"detach_weights": False, "t_push": 0.9}],
    "clip": [
        {"duplicates": "negative", "keep_mib": 0, "label_smoothing": 0.1},
        {"image_weight": 0.75, "label_smoothing": 0.2},
        {"head": {"use": "reweight", "kappa": 1.5}},
        {"head": {"use": "mlp", "hidden": 6, "out": 5}},
        {"head": {"use": "whiten", "group": 4, "detach": False}},
        {"inputs": {"image": "views.1", "text": "text_views.0"}, "head": {"use": "mlp", "hidden": 6, "out": 5}},
        {"reweight": {"use": "small_loss", "begin": 0.0, "gap": 0.0}},
        {"reweight": [{"use": "where", "keep": "label >= 1"}, {"use": "small_loss", "begin": 0.0, "gap": 0.0}]},
    ],
    "caption": [{"label_smoothing": 0.1, "chunk_mib": 0}],
    "cl2l": [{"hidden": 0, "label_smoothing": 0.0, "duplicates": "negative"}],
    "coconut": [{"exclude_self": True, "tau": 0.5}],
    "ctvis": [
        {"key_by": "index", "aux_weight": 1.0, "memory": 1.0, "noise": 0.5},
        {"key_by": "caption_id", "noise": 0.5, "spoil": "jitter", "duplicates": "negative", "capacity": 5},
    ],
    "collossl": [{"positives": 2, "every": 1, "momentum": 0.5, "centre": False}],
    "comet": [{"exclude_siblings": False, "duplicates": "negative"}, {"by_group": 0.0, "by_origin": 0.0}],
    "conr": [{"quantile": 0.3, "e": 0.5, "tau": 0.3}],
    "conr_target": [{"quantile": 0.3, "rarity": "inverse", "tau": 0.3}],
    "cwcl": [{"kernel": "exp", "width": 0.1}, {"kernel": "power", "width": 4.0, "hard_weight": 0.0}],
    "dcl": [{"intra": True}, {"duplicates": "negative"}],
    "hydra": [{"entropy": 0.5, "gate": 7}],
    "sepclr": [{"target": 0, "b_t": 2.0, "b_r": 3.0, "lam": 0.5, "tau": 1.5, "norm_cap": 0.3, "common": 5}],
    "group_clip": [{"mode": "attract"}, {"mode": "attract", "duplicates": "negative"}],
    "groco": [{"negatives": "own", "steepness": 4.0}, {"negatives": "both", "k": 2, "duplicates": "negative"}],
    "directpred": [{"predictor": "paper", "rho": 0.9}, {"predictor": "copy"}],
    "feature_transformation": [
        {"mode": "official", "a_pos": 0.6, "begin": 0.0},
        {"per_dimension": False, "duplicates": "negative"},
        {"begin": 0.5},
    ],
    "hallucinator": [{"rho": 0.0, "duplicates": "negative"}, {"begin": 0.5, "hidden": 2}],
    "hallucinator_texts": [{"rho": 0.0}, {"begin": 0.5}],
    "hard_infonce": [{"k": 2}, {"alpha": 1.0, "duplicates": "negative"}],
    "icnn": [{"k": 2, "window": 7}],
    "alignment": [{"power": 3.0}],
    "isogclr": [{"eta": 0.0}, {"duplicates": "negative", "gamma": 1.0, "tau": 0.5}],
    "m3col": [{"switch": 0.0}, {"mixed": 1.0, "beta": 1.0}],
    "mclrec": [{"ntxent": True, "every": 2}, {"beta": 0.0, "duplicates": "negative"}, {"gamma": 0.0}],
    "meow": [
        {"clusters": [3, 2], "refresh": 1},
        {"clusters": [3], "refresh": 1, "include_pos": False, "proto": 0.0},
    ],
    "meow_adaptive": [{"sign": -1}, {"include_pos": False, "hidden": 2}],
    "meow_given": [{"include_pos": False}],
    "mlcd": [{"share": 1.0, "scale": 10.0, "margin": 0.2}, {"share": 0.5, "joint": True}],
    "mochi": [{"n": 3, "s": 2, "t": 3}, {"s": 0, "t": 4, "duplicates": "negative"}],
    "pamc": [
        {"clusters": 3, "refresh": 1},
        {"clusters": 3, "refresh": 1, "soft": True, "drop_diag": True},
        {"clusters": 3, "refresh": 1, "by_mass": False},
    ],
    "pamc_label": [{"drop_diag": True, "by_mass": False}],
    "pixpro": [{"loss": "contrast", "hidden": 0}, {"loss": "plain", "near": 1.5}, {"power": 0.5, "transform": False}],
    "whitened_cse": [{"group": 2, "copies": 3, "shared": False, "tail": False}],
    "siglip": [{"duplicates": "negative"}],
    "supremix": [{"max_pos": 3, "window": 1.0, "tau": 0.3}, {"magnify": "l2", "unit": True}],
    "swalip": [{"hidden": 0, "iterations": 1}],
    "swav": [{"queue": 20, "queue_begin": 0.0, "prototypes": 6}, {"freeze": 1.0, "eps": 0.5}],
    "swav_views": [{"queue": 20, "queue_begin": 0.0, "prototypes": 6}],
    "wscol": [
        {"hidden": 0, "prototypes": 3, "delta": 0.3},
        {"self_positive": True, "prototypes": 2, "eta": 1.0},
        {"prototypes": 3, "head": {"use": "mlp", "hidden": 6, "out": 5}},
    ],
    "susana": [{"margin": 2.5}],
    "supcon": [{"positives": "sum"}, {"keep_mib": 0}],
}
OURS = [key for key, cls in catalogue().items() if plugins.is_ours(cls)]
CASES = [(key, fields) for key in OURS for fields in [{}, *SETTINGS.get(key, [])]]
NAMES = [str(Case(key, fields)) for key, fields in CASES]


def make(key: str, fields: dict[str, Any], dtype: torch.dtype = torch.float64) -> Any:
    """Return the objective, ready for steps of a small run; its own weights are of the features' `dtype`."""
    return Case(key, fields).make(dtype)


def features(objective: Objective, b: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Return a random value of everything that the objective asks for; floats want gradients."""
    return case.features(objective.needs, b, seed, dtype, objective.needs_teacher)
