"""Tell which classes have features in common, by the gates that the objective hydra has learnt.

Wu et al., Rethinking Positive Pairs in Contrastive Learning, 2024, arXiv 2410.18200. Two classes a, b are related by
the mean over features of their gate g(a, b), in 0 to 1: overlap = its mean over all pairs of different classes. Reads a
run's checkpoint, no data. Classes have no interval: they are not drawn from anything.
Reduces to: 1 for gates that are open, where nothing is told apart (and hydra pulls wrong pairs together).
Differs from the paper: it looks at gates of single pairs; norms of the gate have statistics of all pairs, each once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from mmclr.eval.embed.embedder import folder_hash
from mmclr.eval.result import Result, check
from torch import Tensor

from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.load_model import open_term
from mmclr.losses import Facts
from mmclr.losses.soft.hydra import Hydra, overlaps
from mmclr.models.formats import find
from mmclr.models.formats.weights import load_weights

MOST = 200  # classes: all their pairs are in memory at once
SHOWN = 40  # classes that a figure names, where there are groups to show in their place
PAIRS = 15  # of the most related classes that the report lists

EXAMPLES = """examples:
  mmclr eval relations runs/hydra --names classes.txt --out relations.json      for mmclr report relations.json
  mmclr eval relations runs/hydra --names classes.txt --groups groups.txt
--names is what mmclr data label --names wrote. --groups has a group for each class, one a line, in the same order: then
overlap_within and overlap_across are those of two classes of one group, and of two groups.
"""


def main(argv: list[str]) -> None:
    """`mmclr eval relations RUN`."""
    parser = argparse.ArgumentParser(
        "mmclr eval relations",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="RUN", help="a run or a checkpoint")
    parser.add_argument("--objective", default="hydra", metavar="NAME", help="the term of hydra in the run's config")
    parser.add_argument("--names", type=Path, metavar="FILE", help="names of the classes, one a line, number 0 first")
    parser.add_argument("--groups", type=Path, metavar="FILE", help="the group of each class, one a line")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON, which `mmclr report` draws")
    args = parser.parse_args(argv)
    if args.out:
        check(args.out)
    result = run(args.source, args.objective, args.names, args.groups)
    written = result.save(args.out) if args.out else None
    result.show()
    if written:
        say(f"written: {written}")


def run(source: str, term: str = "hydra", names: Path | None = None, groups: Path | None = None) -> Result:
    """Measure how related the classes of a run are. Raises UserError where it has no such objective, or other names."""
    folder = find.find(source, "model")
    files = (folder.parent / "config.yaml", folder.parent / "state" / "objectives.safetensors")
    matrix = overlaps(read(*files, term)).double()
    count = len(matrix)
    classes = lines(names, count) if names else [str(number) for number in range(count)]
    off = ~torch.eye(count, dtype=torch.bool)
    measured: dict[str, float | None] = {"overlap": mean(matrix, off)}
    shown, titles = matrix, classes
    if groups:
        own = lines(groups, count)
        titles = sorted(set(own)) if count > SHOWN else classes
        codes = torch.tensor([sorted(set(own)).index(group) for group in own])
        same = codes[:, None] == codes
        measured |= {"overlap_within": mean(matrix, off & same), "overlap_across": mean(matrix, ~same)}
        if count > SHOWN:
            shown = between(matrix, codes, len(titles))
    related = closest(matrix, classes)
    return Result.of(
        measured,
        dataset=f"{count} classes",
        model=source,
        task="relations",
        sizes={"classes": count},
        notes=[f"most in common: {', '.join(f'{a} and {b} {value:.3f}' for a, b, value in related[:3])}"],
        hashes={"model": folder_hash(folder, *files)},
        examples={"relations": {"matrix": shown.tolist(), "classes": titles, "pairs": [list(row) for row in related]}},
    )


def read(config: Path, state: Path, term: str) -> Hydra:
    """Return a run's hydra with the weights of the last step. Raises UserError."""
    found, weights = open_term(config, state, term)
    objective = getattr(found, "objective", found)  # behind the term's options
    if objective is not found:
        inner = "objective."
        weights = {name.removeprefix(inner): value for name, value in weights.items() if name.startswith(inner)}
    if not isinstance(objective, Hydra) or "code.weight" not in weights or "made.second.weight" not in weights:
        raise UserError(f"{config}: the objective {term} has no gates of classes; --objective names one of hydra")
    count = len(weights["code.weight"])
    if not 2 <= count <= MOST:
        raise UserError(
            f"{config}: {count:,} classes; relations are drawn of 2 to {MOST}: train with fewer, by --least of mmclr "
            "data label"
        )
    objective.setup(Facts.example(width=len(weights["made.second.weight"]), classes=count))
    load_weights(objective, weights, str(state))
    return objective


def lines(path: Path, count: int) -> list[str]:
    """Return the lines of a file, as many as there are classes. Raises UserError."""
    try:
        found = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if len(found) != count:
        raise UserError(f"{path}: {len(found)} lines, and the run has {count} classes; one line belongs to each")
    return found


def mean(matrix: Tensor, among: Tensor) -> float | None:
    """Return the mean over the pairs that are `among`, None where there are none."""
    return float(matrix[among].mean()) if among.any() else None


def between(matrix: Tensor, codes: Tensor, count: int) -> Tensor:
    """Return the mean over different classes of each two groups, [G, G]; 0 for a group of one class with itself."""
    member = torch.nn.functional.one_hot(codes, count).to(matrix)
    off = 1 - torch.eye(len(matrix), dtype=matrix.dtype)
    return (member.T @ (matrix * off) @ member) / (member.T @ off @ member).clamp_min(1)


def closest(matrix: Tensor, classes: list[str]) -> list[tuple[str, str, float]]:
    """Return the pairs of classes that have most in common, the first first."""
    one, other = torch.triu_indices(len(matrix), len(matrix), 1)
    values = matrix[one, other]
    order = values.argsort(descending=True, stable=True)[:PAIRS].tolist()
    return [(classes[int(one[i])], classes[int(other[i])], float(values[i])) for i in order]
