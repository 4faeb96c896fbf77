"""Panels of logged quantities that are drawn together, with their meaning and the threshold that matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Panel:
    """One chart of a training: logged names and what the legend calls them."""

    title: str
    names: Mapping[str, str]
    note: str = ""
    log: bool = False
    smooth: int = 0  # points to either side
    limits: Mapping[str, float] = field(default_factory=dict)

    def among(self, names: Iterable[str]) -> Panel:
        """Return the panel with those of its names that were logged."""
        there = set(names)
        return dataclasses.replace(self, names={n: legend for n, legend in self.names.items() if n in there})


def of_batch(title: str, note: str, names: Mapping[str, str]) -> Panel:
    """Return the panel of diagnostics of the last batch."""
    return Panel(title, {f"batch.{name}": legend for name, legend in names.items()}, note)


BOTH = {"image": "images", "text": "texts"}
TRAINING = (
    Panel("loss", {"loss": "loss"}, smooth=6),
    Panel(
        "scale (inverse temperature)",
        {"scale": "scale"},
        "A scale that sits at its clamp wants a lower weight decay or rate.",
    ),
    Panel("learning rate", {"lr": "rate"}),
    Panel(
        "gradient norm",
        {"grad_norm": "norm"},
        "Spikes say that the rate is too high or the data are broken.",
        log=True,
        smooth=6,
    ),
    Panel("samples per second", {"samples_per_s": "samples per second"}, smooth=6),
    Panel(
        "share of time waiting for data",
        {"data_wait": "share"},
        "Above 0.1 the loader is the bottleneck: more workers, or smaller images in the shards.",
        smooth=6,
        limits={"0.1": 0.1},
    ),
    Panel("memory, GiB", {"memory_gib": "memory"}, "Of the device, or of the process where there is none."),
)
GEOMETRY = (
    of_batch(
        "cosines",
        "Pairs should leave their hardest wrong captions behind; where both stay close, the batch "
        "holds near duplicates or the labels are noisy.",
        {"matched_mean": "pairs", "hardest_mean": "hardest wrong captions", "negative_mean": "all wrong captions"},
    ),
    of_batch(
        "variance of cosines",
        "Where that of the wrong captions falls to 0, they have become alike and teach little.",
        {"matched_variance": "pairs", "negative_variance": "all wrong captions"},
    ),
    of_batch(
        "right answers of the batch",
        "Share of images (texts) whose own text (image) is the closest. At 1 the "
        "batch has nothing left to teach: a larger one, or harder negatives.",
        {f"{part}_accuracy": legend for part, legend in BOTH.items()},
    ),
    of_batch(
        "modality gap",
        "Distance of the two means, 0 to 2: the smaller, the better the clouds mix.",
        {"centroid_distance": "gap"},
    ),
    of_batch(
        "uniformity",
        "log mean exp(-2 d²): -8 spread out, 0 one point. Rising to 0 is collapse.",
        {**{f"{part}_uniformity": legend for part, legend in BOTH.items()}, "cross_uniformity": "across"},
    ),
    of_batch("alignment", "Mean squared distance of a pair, 0 to 4: lower is closer.", {"alignment": "alignment"}),
    of_batch(
        "effective rank",
        "Directions in use. Falling towards 1 is collapse of dimensions.",
        {f"{part}_effective_rank": legend for part, legend in BOTH.items()},
    ),
    of_batch(
        "effective negatives",
        "How many wrong answers share the gradient at this scale. Near 1 the temperature "
        "is so low that only the hardest counts.",
        {f"effective_negatives_of_{part}": legend for part, legend in BOTH.items()},
    ),
    of_batch("margin", "Cosine of a pair less that of the hardest wrong caption.", {"margin": "margin"}),
    of_batch("tolerance", "Cosine of images that share a caption.", {"tolerance": "tolerance"}),
)
UNDRAWN = ("left_s", "batch.scale", "batch.matched_", "batch.hardest_")  # said by others, or of no use afterwards


def arrange(names: Iterable[str]) -> dict[str, list[Panel]]:
    """Return the panels of these logged names by section; what no panel knows gets one of its own."""
    names = list(names)
    known = {
        part: [p for panel in panels if (p := panel.among(names)).names]
        for part, panels in (("Training", TRAINING), ("Geometry over training", GEOMETRY))
    }
    drawn = {name for panels in known.values() for panel in panels for name in panel.names}
    others = [name for name in names if name not in drawn and not name.startswith(UNDRAWN)]
    known["Training"] += [Panel(name, {name: name}) for name in others if not name.startswith("eval.")]
    known["Evaluations over training"] = _evaluations(name for name in others if name.startswith("eval."))
    return {title: panels for title, panels in known.items() if panels}


def _evaluations(names: Iterable[str]) -> list[Panel]:
    """Return one panel per evaluation and metric; recall at several k is one."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        stem, at, k = name.removeprefix("eval.").partition("@")
        found.setdefault(stem, {})[name] = f"@{k}" if at else stem
    return [Panel(stem.replace("/", ": ").replace("_", " "), legend) for stem, legend in found.items()]
