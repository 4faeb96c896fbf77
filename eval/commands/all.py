"""Run a list of suites on one model: YAML, or DataComp's tasklist.yml.

Each image is embedded once; there is one JSON for each task, and one line for all. The list has a name, and for each
the suite and its options. DataComp's tasklist.yml is read as it is; its sets lie in ROOT/wds_{key, / as -}_test. A task
whose line is in eval_results.jsonl already is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from mmclr.eval import options, suites
from mmclr.eval.embed import ranks
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.result import Result, check
from rich.table import Table

from mmclr.config import nearest
from mmclr.display.console import Console
from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.storage import written

RESULTS = "eval_results.jsonl"  # DataComp's name and form
ELSEWHERE = ("wilds/", "fairness/", "misc/")  # DataComp's tasks with metrics of their own, which no suite here has
# what DataComp reports as the one number of a task, where the metrics do not say it themselves
MAIN = ("acc1", "mean_recall@1", "mean_average_precision", "text_acc", "lp_acc1", "CIDEr")


def run(embedder: Embedder, tasks: Mapping[str, Mapping[str, Any]], out: Path) -> list[Result]:
    """Do all tasks that have no line yet; one that fails is reported and leaves no line."""
    lines = written.claim(out / RESULTS, "lines of evaluations", _is_line)
    done = {line["key"] for line in _lines(out / RESULTS)}
    for key in tasks:
        check(_place(out, key))
    results, failed = [], {}
    for number, (key, task) in enumerate(tasks.items(), 1):
        if key in done:
            continue
        if ranks.speaks():
            say(f"{number}/{len(tasks)} {key}", flush=True)
        try:
            result = suites.find(task["suite"]).measure(_argv(task), embedder)
        except UserError as error:
            failed[key] = error
            continue
        results.append(result)
        if ranks.speaks():
            result.save(_place(out, key))
            with open(lines, "a", encoding="utf-8") as file:
                file.write(json.dumps(_line(key, task, result)) + "\n")
    if failed:
        raise UserError("\n".join(f"{key}: {error}" for key, error in failed.items()))
    return results


def _place(out: Path, key: str) -> Path:
    return out / f"{key.replace('/', '-')}.json"


def _is_line(start: bytes) -> bool:
    """Whether a file is one of these, or DataComp's own, to which lines may be added."""
    try:
        return {"key", "metrics"} <= set(json.loads(start.split(b"\n")[0]))
    except (ValueError, TypeError):
        return False


def read(path: Path, root: Path | None) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the tasks of a list, and the names of those that no suite here can do. `root` is before every path."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such list of tasks") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not all(isinstance(task, dict) for task in tree.values()):
        raise UserError(f"{path}: a list of tasks is a mapping from names to their suite and options")
    tasks, left_out, known = {}, [], suites.names()
    for key, task in tree.items():
        if "suite" in task:
            if task["suite"] not in known:
                raise UserError(f"{path}: {key}: there is no suite {task['suite']!r}{nearest(task['suite'], known)}")
            tasks[key] = {**task, **({"data": str(root / task["data"])} if root else {})}
        elif key.startswith(ELSEWHERE):
            left_out.append(key)
        else:
            tasks[key] = _datacomp(key, task, root or path.parent)
    return tasks, left_out


def _datacomp(key: str, task: Mapping[str, Any], root: Path) -> dict[str, Any]:
    suite = "retrieval" if key.startswith("retrieval/") else "zero_shot"
    found = {"suite": suite, "data": str(root / f"wds_{key.replace('/', '-')}_test"), "dataset": task.get("name", key)}
    return {**found, **{name: task[name] for name in ("main_metric",) if name in task}}


def _argv(task: Mapping[str, Any]) -> list[str]:
    """Return a task's options as its suite's command line has them."""
    argv = []
    for name, value in task.items():
        if name not in ("suite", "main_metric"):
            argv += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return argv


def _line(key: str, task: Mapping[str, Any], result: Result) -> dict[str, Any]:
    """Return DataComp's line of a result."""
    metrics = dict(result.metrics)
    both = [metrics.get(f"{way}_retrieval_recall@1") for way in ("image", "text")]
    if None not in both:
        metrics["mean_recall@1"] = sum(both) / 2  # type: ignore[arg-type]
    names = [task["main_metric"]] if "main_metric" in task else MAIN
    main = next((metrics[name] for name in names if metrics.get(name) is not None), None)
    return {"key": key, "dataset": result.dataset, "metrics": {**metrics, "main_metric": main}}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def show(path: Path) -> None:
    """Print the main number of each task that has a line, and their mean."""
    lines = list(_lines(path))
    table = Table("task", "set", "main metric")
    for line in lines:
        value = line["metrics"]["main_metric"]
        table.add_row(line["key"], str(line["dataset"]), "–" if value is None else f"{value:.4f}")
    known = [line["metrics"]["main_metric"] for line in lines if line["metrics"]["main_metric"] is not None]
    if known:
        table.add_row("mean", f"{len(known)} tasks", f"{sum(known) / len(known):.4f}", style="bold")
    Console().print(table)


def main(argv: list[str]) -> None:
    """Do a list of tasks."""
    parser = argparse.ArgumentParser(
        "mmclr eval all", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_model(parser)
    parser.add_argument("--tasks", type=Path, required=True, metavar="FILE", help="the list, YAML")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="folder that the sets lie in")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    args = parser.parse_args(argv)
    tasks, left_out = read(args.tasks, args.data)
    ranks.join()
    run(options.embedder(args), tasks, args.out)
    if ranks.speaks():
        for key in left_out:
            say(f"left out: {key} (its metric is DataComp's own)")
        show(args.out / RESULTS)
    ranks.leave()


EXAMPLES = """examples:
  mmclr eval all runs/clip --tasks tasks.yaml --out results/clip
  mmclr eval all exported/ --tasks tasklist.yml --data datacomp_sets/ --out results/exported     (DataComp's 40 sets)

tasks.yaml:
  icons:     {suite: zero_shot, data: 'icons/*.tar', label: 'json:group', template: ['an icon of {c}']}
  flickr8k:  {suite: retrieval, data: wds_flickr8k, recall_k: [1, 5, 10]}
  shapes:    {suite: geometry, data: wds_flickr8k}
"""
