"""A classifier out of words: one unit vector per class, from its name in several templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets.evaluation_set import Templates
from torch import Tensor
from torch.nn import functional as F

from mmclr.config import nearest
from mmclr.errors import UserError

SLOT = "{c}"


def prompts(classnames: Sequence[str], templates: Templates) -> tuple[list[str], Tensor]:
    """Return all prompts, class by class, and the class of each.

    `templates` have a slot {c}; a mapping gives each class its own, with or without a slot.
    """
    if isinstance(templates, Mapping):
        lists = [_own(templates, name) for name in classnames]
    else:
        _check(templates)
        lists = [list(templates)] * len(classnames)
    texts = [template.replace(SLOT, name) for name, own in zip(classnames, lists) for template in own]
    owner = torch.repeat_interleave(torch.arange(len(lists)), torch.tensor([len(own) for own in lists]))
    return texts, owner


def build(embedder: Embedder, classnames: Sequence[str], templates: Templates) -> Tensor:
    """Return class vectors [C, D]: w_c = unit(mean over templates of the unit text embeddings).

    Radford et al., ICML 2021, arXiv 2103.00020, section 3.1.4.
    """
    texts, owner = prompts(classnames, templates)
    embedded = embedder.texts(texts, "class prompts")
    sums = embedded.new_zeros(len(classnames), embedded.shape[1]).index_add_(0, owner, embedded)
    return F.normalize(sums / torch.bincount(owner)[:, None], dim=-1)


def _own(templates: Mapping[str, Sequence[str]], name: str) -> list[str]:
    if name not in templates:
        raise UserError(f"the templates have nothing for class {name!r}{nearest(name, templates)}")
    if not templates[name]:
        raise UserError(f"the templates of class {name!r} are an empty list")
    return list(templates[name])


def _check(templates: Sequence[str]) -> None:
    if not templates:
        raise UserError("there is no template: give at least one, for example 'a photo of a {c}.'")
    for number, template in enumerate(templates, 1):
        if SLOT not in template:
            raise UserError(f"template {number}, {template!r}, has no slot {SLOT} where the class name goes")
