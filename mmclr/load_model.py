"""A trained model from wherever it lies: as it is, or as one of its objectives saw it, behind a head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml
from torch import Tensor, nn

from mmclr import plugins
from mmclr.config import nearest
from mmclr.errors import UserError
from mmclr.heads import Head
from mmclr.losses.objective import Facts
from mmclr.losses.weighted_sum import build_terms
from mmclr.models import ensemble
from mmclr.models.ensemble import Composed, WithHead
from mmclr.models.formats import find
from mmclr.models.formats.weights import load_weights, read_weights
from mmclr.models.two_tower import TwoTower


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode, and the files that it came from."""

    model: TwoTower | Composed
    folder: Path  # the model folder; its tokenizer is in it
    files: tuple[Path, ...] = ()  # what else decides on what it computes

    def plain(self) -> TwoTower:
        """Return the model as two towers with linear projections, in which a linear head is multiplied.

        Raises UserError for a model that is more than that.
        """
        if isinstance(self.model, TwoTower):
            return self.model
        if not isinstance(self.model, WithHead):
            raise UserError(
                f"{self.folder}: several models side by side are no class of another library's; mmclr.load and "
                f"mmclr eval read them, and each of them can be exported"
            )
        if self.model.config.image_pool != "mean":
            raise UserError(
                f"{self.files[0]}: this model pools several images by {self.model.config.image_pool} in front of the "
                "head, so no projection can contain the head; mmclr.load and mmclr eval use it as it is"
            )
        made = ensemble.folded(self.model.models[0], self.model.head)  # type: ignore[arg-type]
        if made is None:
            raise UserError(
                f"{self.files[0]}: this head is no linear map in front of which lies a projection, so no projection "
                f"can contain it; mmclr.load and mmclr eval use it as it is, and without --head the model below it "
                f"can be exported"
            )
        return made


def open_model(source: str | Path, weights: str = "auto", head: str = "") -> Trained:
    """Open a run, checkpoint, model folder (several models side by side, too) or name; see `pretrained.find`.

    `head` is the name of an objective in the run's config: the model is then what this objective saw, behind its head,
    with the weights of the last step, which the head was trained with, and not their average. Raises UserError where
    there is no such model, objective or head.
    """
    folder = find.find(source, "model" if head else weights)
    if not head:
        return Trained(ensemble.load(folder), folder)
    model = TwoTower.load(folder)
    files = (folder.parent / "config.yaml", folder.parent / "state" / "objectives.safetensors")
    found = WithHead(model, _read(*files, head, model.config.embed))
    return Trained(found.eval().requires_grad_(False), folder, files)


def open_term(config: Path, state: Path, term: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return an objective of a checkpoint's config as it is before `setup`, and its weights of the last step by name.

    Raises UserError where there is no such objective, or no checkpoint but a model alone.
    """
    if not (config.is_file() and state.is_file()):
        raise UserError(f"{config.parent}: no head there; heads are in a run's checkpoints, not in exported models")
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    try:
        terms = build_terms(tree["objectives"])
    except UserError as error:
        raise UserError(f"{config}: {error}{plugins.not_loaded(tree)}") from None
    if term not in terms:
        raise UserError(f"{config}: there is no objective {term!r}{nearest(term, terms)}")
    prefix = f"{term}."
    weights = {n.removeprefix(prefix): value for n, value in read_weights(state).items() if n.startswith(prefix)}
    return terms[term].objective, weights


def _read(config: Path, state: Path, term: str, width: int) -> Head:
    """Return the head of an objective, from the config and the state of a checkpoint."""
    objective, weights = open_term(config, state, term)
    objective.setup(Facts.example(width=width))  # type: ignore[operator]
    head = getattr(objective, "head", None)
    if not isinstance(head, Head):
        raise UserError(f"{config}: the objective {term} has no head that could be used")
    prefix = "head."
    load_weights(head, {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}, str(state))
    return head
