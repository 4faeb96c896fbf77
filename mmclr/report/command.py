"""Write one HTML page of a run, of evaluations, or of both."""

from __future__ import annotations

import argparse
import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.report import charts, scatter
from mmclr.report.gallery import Found, Prediction, Query, Written
from mmclr.report.page import KIND, Page
from mmclr.storage import checkpoints, written

EXAMPLES = """examples:
  mmclr report runs/clip                                   the curves of a run -> runs/clip/report.html
  mmclr report runs/clip results/*.json --out page.html    with evaluations, their intervals and their images
"""
TILES = 16  # numbers that still read as tiles
MAPS = (
    (
        "plane",
        "map of the embeddings",
        "The two main axes of images and texts together; two separate clouds are the modality gap.",
    ),
    ("umap", "map of neighbourhoods (UMAP)", "Near points are neighbours; distances between groups say little."),
)
COLUMNS = ("set", "task", "metric", "value", "low", "high", "n")


def main(argv: list[str]) -> None:
    """Write one HTML page."""
    parser = argparse.ArgumentParser(
        "mmclr report", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="RUN|RESULT.json", help="run folders and results")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: report.html beside the first source")
    parser.add_argument("--title", default="", help="default: the name of the first source")
    args = parser.parse_intermixed_args(argv)
    first = args.sources[0]
    out = args.out or (first if first.is_dir() else first.parent) / "report.html"
    written.check(out, KIND)
    say(f"written: {build(args.sources, args.title).save(out)}")


def build(sources: Iterable[Path], title: str = "") -> Page:
    """Return the page of run folders (their log.jsonl) and results of evaluations (their examples, if there)."""
    runs, results, comparisons = [], [], []
    for path in sources:
        if path.is_dir():
            if not (path / "log.jsonl").is_file():
                raise UserError(f"{path}: no log.jsonl there; name a run's folder or a result of mmclr eval")
            runs.append(path)
        elif not path.name.endswith(".examples.json"):  # *.json matches those too; they are read with their result
            tree = read_tree(path)
            if "differences" in tree:
                comparisons.append((path, tree))
            else:
                results.append((path, check_result(path, tree)))
    page = Page(title or (runs + [path for path, _ in results + comparisons])[0].stem)
    for path, tree in comparisons:
        with _read_as(path, "a comparison of mmclr eval compare"):
            add_comparison(page, tree)
    if len(results) > 1:
        page.table("Evaluations", COLUMNS, [row for _, tree in results for row in rows_of(tree)])
    for path, tree in results:
        with _read_as(path, "a result of mmclr eval"):
            add_result(page, tree)
        examples = path.with_suffix(".examples.json")
        with _read_as(examples, "the examples of mmclr eval"):
            add_examples(page, examples)
    for run in runs:
        with _read_as(run / "log.jsonl", "the log of a run"):
            page.curves(run / "log.jsonl", run.name if len(runs) > 1 else "", clamp(run))
    return page


def clamp(run: Path) -> dict[str, dict[str, float]]:
    """Return the limit of a run's scale, for the panel that shows it; {} before the first checkpoint."""
    newest = checkpoints.latest(run, read=("config.yaml",))
    model = (yaml.safe_load((newest / "config.yaml").read_text("utf-8")) or {}).get("model", {}) if newest else {}
    return {"scale": {"clamp": float(model["max_scale"])}} if "max_scale" in model else {}


def read_tree(path: Path) -> dict[str, Any]:
    """Return the tree of a JSON file."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such run or result") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a result of mmclr eval ({error})") from None


def check_result(path: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation's tree, which must have CLIP_benchmark's keys."""
    lacking = [key for key in ("dataset", "task", "metrics") if key not in tree]
    if lacking:
        raise UserError(f"{path}: not a result of mmclr eval (it has no {lacking[0]})")
    numbers = {"metrics": _is_number, "n": _is_number, "ci95": _is_interval}
    for field, right in numbers.items():
        values = tree.get(field) or {}
        if not isinstance(values, Mapping):
            raise UserError(f"{path}: {field} is no mapping, so this is not a result of mmclr eval")
        for name, value in values.items():
            if value is not None and not right(value):
                raise UserError(f"{path}: {field} of {name!r} is {value!r:.60}, which is no number; evaluate again")
    return {**tree, **{field: tree.get(field) or {} for field in numbers}}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


@contextmanager
def _read_as(path: Path, what: str) -> Iterator[None]:
    """Say in a sentence that a file is not what it should be, whatever in it is of another kind."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError) as error:
        raise UserError(f"{path}: not {what} ({type(error).__name__}: {error}); make it again") from None


def add_comparison(page: Page, tree: Mapping[str, Any]) -> None:
    """Add what `mmclr eval compare --out` wrote."""
    rows = tree["differences"]
    points = [
        (f"{row['metric']}", row["difference"], None if row["low"] is None else [row["low"], row["high"]])
        for row in rows
    ]
    note = f"Differences to {tree['compared_with']} on the same samples; an interval beside 0 is a difference."
    page.add("Compared", scatter.forest("second model less the first", points, note=note))
    page.table("", list(rows[0]), [list(row.values()) for row in rows])


def rows_of(tree: Mapping[str, Any]) -> list[list[Any]]:
    """Return one row of COLUMNS for each metric of a result."""
    ci, n = tree.get("ci95", {}), tree.get("n", {})
    return [
        [tree["dataset"], tree["task"], name, value, *(ci.get(name) or (None, None)), n.get(name)]
        for name, value in tree["metrics"].items()
    ]


def add_result(page: Page, tree: Mapping[str, Any]) -> None:
    """Add an evaluation's numbers: tiles, or a table where they are many."""
    note = "; ".join(tree.get("notes", []))
    if len(tree["metrics"]) <= TILES:
        page.result(tree, note=note)
    else:
        page.table(f"{tree['task']} · {tree['dataset']}", COLUMNS[2:], [row[2:] for row in rows_of(tree)], note)


def add_examples(page: Page, path: Path) -> None:
    """Add the images that an evaluation kept, where it kept some."""
    if not path.is_file():
        return
    kinds = json.loads(path.read_text("utf-8"))
    if kinds.get("finds"):
        page.gallery("What it finds", [_query(tree) for tree in kinds["finds"]], "From the best found to the worst.")
    if kinds.get("guesses"):
        page.predictions("What it takes images for", [_prediction(tree) for tree in kinds["guesses"]])
    if kinds.get("captions"):
        page.captions("What it writes", [_written(tree) for tree in kinds["captions"]], "Below, what people wrote.")
    if kinds.get("confusions"):
        _add_confusions(page, kinds["confusions"])
    if kinds.get("separability"):
        rows = [(name, f"{n:,}", f"{value:.3f}") for name, n, value in kinds["separability"]]
        page.table("How far classes are apart", ("class", "images", "ICNN"), rows)
    if kinds.get("relations"):
        _add_relations(page, kinds["relations"])
    if drawn := figures(kinds):
        page.charts("How they lie", drawn)


def figures(kinds: Mapping[str, Any]) -> Sequence[str]:
    """Draw the distributions of scores and the maps of embeddings that an evaluation kept."""
    out = []
    if kinds.get("scores"):
        note = "Cosines of right pairs and of wrong ones: the less they overlap, the better pairs can be told."
        out.append(charts.histogram("scores", kinds["scores"], note=note))
    for kind, points in kinds.get("temperatures", {}).items():
        x, y = zip(*points)
        out.append(
            charts.lines(f"{kind.replace('_', ' ')} by temperature", {str(kind): (x, y)}, x_name="τ", x_log=True)
        )
    return out + [scatter.scatter(title, kinds[name], note=note) for name, title, note in MAPS if kinds.get(name)]


def _add_confusions(page: Page, tree: Mapping[str, Any]) -> None:
    if tree.get("matrix"):
        page.add(
            "What it confuses",
            scatter.heatmap("true class down, predicted class across", tree["matrix"], tree["classes"]),
        )
    if tree["pairs"]:
        columns = ("true class", "taken for", "images", "share of the class")
        page.table("" if tree.get("matrix") else "What it confuses", columns, tree["pairs"])


def _image(tree: Mapping[str, Any]) -> bytes:
    """Return the image of an example; results of 0.1 call it `picture`."""
    return base64.b64decode(tree["image"] if "image" in tree else tree["picture"])


def _add_relations(page: Page, tree: Mapping[str, Any]) -> None:
    note = "Share of the features that two classes have in common by their gate; darker is more."
    page.add(
        "How classes are related",
        scatter.heatmap("features in common", tree["matrix"], tree["classes"], note=note, shares=False),
    )
    page.table("", ("class", "class", "in common"), [(a, b, f"{value:.3f}") for a, b, value in tree["pairs"]])


def _query(tree: Mapping[str, Any]) -> Query:
    found = [Found(_image(item), item.get("right"), item.get("name", ""), item.get("score")) for item in tree["found"]]
    return Query(tree["text"], found)


def _prediction(tree: Mapping[str, Any]) -> Prediction:
    return Prediction(_image(tree), tree["truth"], [tuple(pair) for pair in tree["guesses"]])


def _written(tree: Mapping[str, Any]) -> Written:
    return Written(_image(tree), tree["caption"], tree["truth"], tree["right"])
