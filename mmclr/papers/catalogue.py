"""List the objectives: formula, needs, cost, state, and how to switch each on.

Of heads and orders too; all of it is read from their code.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import io
import json
import re
import tokenize
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.table import Column, Table

from mmclr import heads, plugins, reweighters, scorers
from mmclr.config import find, nearest
from mmclr.data.stream import order
from mmclr.display.console import Console
from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.losses.objective import Facts, Objective, catalogue
from mmclr.papers import commands, page, plugged, recalls
from mmclr.papers.entry import ROOT, Entry, paper, parse
from mmclr.reweighters import Reweighter
from mmclr.scorers import Scorer
from mmclr.storage import written


def entries() -> list[Entry]:
    """Return all objectives, sorted by what data they need and then by name; then all else."""
    uses = _presets()
    found = [_objective(cls, uses.get(key, [])) for key, cls in catalogue().items()]
    below = [_head(key, cls, uses.get(f"head {key}", [])) for key, cls in heads.catalogue().items()]
    below += [_reweighter(cls) for cls in reweighters.catalogue().values()]
    below += [_scorer(cls) for cls in scorers.catalogue().values() if cls.paper]
    orders = [_order(cls, uses.get(f"order {key}", [])) for key, cls in order.catalogue().items() if cls.paper]
    found.sort(key=lambda entry: (page.rank(entry), entry.key))
    return [*found, *below, *orders, *commands.entries(), *plugged.entries()]


def _objective(cls: type[Objective], presets: list[str]) -> Entry:
    own = {"needs": list(cls.needs), "cost": cls.cost, "state": _state(cls), "presets": presets}
    room = cls.__module__.split(".")[-2] if plugins.is_ours(cls) else "plugins"
    return _entry(cls, cls.key, room, above=("objectives", cls.key), **own)


def _head(key: str, cls: type, presets: list[str]) -> Entry:
    made = cls().make(512)
    weights = sum(p.numel() for p in made.parameters())
    state = [f"{weights / 1e6:.1f} M weights"] * (weights > 0)
    own = {"needs": [], "cost": "local", "state": state, "presets": presets, "use": key}
    return _entry(cls, key, "heads", above=("objectives", "clip", "head"), **own)


def _reweighter(cls: type[Reweighter]) -> Entry:
    own = {"needs": list(cls(**cls.example).needs), "cost": "local", "state": [], "presets": [], "use": cls.key}
    found = _entry(cls, cls.key, "reweighters", above=("objectives", "clip", "reweight"), **own)
    fields = [{**f, "default": cls.example.get(f["name"], f["default"])} for f in found.fields]
    tree = {"use": cls.key, **cls.example}
    return dataclasses.replace(found, fields=fields, config=f"objectives: {{clip: {{reweight: {json.dumps(tree)}}}}}")


def _scorer(cls: type[Scorer]) -> Entry:
    own = {"needs": [], "cost": "", "state": [], "presets": []}
    found = _entry(cls, cls.paper, "scorers", above=(), **own)
    return dataclasses.replace(found, config=f"mmclr data score SHARDS {cls.key}")


def _order(cls: type[order.Order], presets: list[str]) -> Entry:
    own = {"needs": [], "cost": "local", "state": [], "presets": presets, "use": cls.key}
    found = _entry(cls, cls.paper, "data", above=("data", "order"), **own)
    fields = [{**f, "default": cls.example.get(f["name"], f["default"])} for f in found.fields]
    tree = {"use": cls.key, **{f["name"]: f["default"] for f in fields}}
    return dataclasses.replace(found, fields=fields, config=f"data: {{order: {json.dumps(tree)}}}")


def _entry(cls: type, key: str, room: str, above: tuple[str, ...], **own: Any) -> Entry:
    told = parse(inspect.getdoc(cls) or "")
    return Entry(
        key=key,
        paper=paper(key, told["arxiv"]),
        room=room,
        file=_file(cls),
        fields=_fields(cls),
        config=f"objectives: {{clip: {{head: {{use: {key}}}}}}}" if room == "heads" else f"objectives: {{{key}: {{}}}}",
        above=above,
        warning=recalls.warning(key),
        origin=plugins.origin(cls),
        **told,
        **own,
    )


def _file(cls: type) -> str:
    """Return the file of a class, from the repository where it is ours."""
    path = Path(inspect.getfile(cls))
    return str(path.relative_to(ROOT) if plugins.is_ours(cls) else path)


def _state(cls: type[Objective]) -> list[str]:
    """Return what the objective keeps between steps, as a run of 1,000 samples would create it."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    if open_fields := [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]:
        return [f"what {', '.join(open_fields)} decide"]
    objective = cls()
    with torch.device("meta"):
        objective.setup(Facts.example())
    weights = {name.partition(".")[0]: 0 for name, _ in objective.named_parameters() if "." in name}
    kept = []
    for name, value in objective.state_dict().items():
        head = name.partition(".")[0]
        if head in weights:
            weights[head] += value.numel()
        else:
            kept.append(f"{name} {list(value.shape)}")
    return kept + [f"{head} ({count / 1e6:.1f} M weights)" for head, count in weights.items()]


def _fields(cls: Any) -> list[dict[str, Any]]:
    comments = _comments(cls)
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    shown = {f.name: None if f.default is dataclasses.MISSING else f.default for f in fields}
    return [{"name": name, "default": value, "comment": comments.get(name, "")} for name, value in shown.items()]


def _comments(cls: type) -> dict[str, str]:
    """Return the comment that trails each field of the class and of those that it inherits from."""
    found: dict[str, str] = {}
    declared = [c for c in cls.__mro__ if c.__module__.partition(".")[0] not in ("builtins", "torch", "typing", "abc")]
    for base in reversed([c for c in declared if c is not Objective]):
        name = ""
        for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(base)).readline):
            field = re.match(r"    (\w+):", token.line)
            name = field.group(1) if field else name
            if token.type == tokenize.COMMENT and field:
                found[name] = token.string.lstrip("# ")
    return found


def _presets() -> dict[str, list[str]]:
    """Return the shipped configs, as paths from here, by the objectives that they name."""
    found: dict[str, list[str]] = {}
    folder = find("base.yaml").parent
    for path in sorted(folder.rglob("*.yaml")):
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        for name, fields in (tree.get("objectives") or {}).items():
            keys = [] if fields is None else [fields.get("use", name)]
            keys += [f"head {fields['head']['use']}"] if fields and fields.get("head") else []
            keys += [f"order {name}"] if (name := _order_of(tree.get("data") or {})) else []
            for key in keys:
                found.setdefault(key, []).append(f"configs/{path.relative_to(folder)}")
    return found


def _order_of(data: dict[str, Any]) -> str:
    """Return the order that the `data:` part of a config names, "" for none."""
    found = data.get("order", "cluster_batches" if data.get("pure") else "")
    return str(found.get("use", "") if isinstance(found, dict) else found)


def _show(found: list[Entry], console: Console) -> None:
    table = Table(Column("objective", no_wrap=True), "idea", "needs", "cost", "keeps", box=None, pad_edge=False)
    for entry in found:
        mark = " (!)" if entry.warning else ""
        idea = f"{entry.title} [{entry.origin}]" if entry.origin else entry.title
        table.add_row(entry.key + mark, idea, " ".join(entry.needs), entry.cost, ", ".join(entry.state) or "-")
    console.print(table)
    console.print("\n(!) The ready config was measured far below plain InfoNCE: mmclr papers KEY says how far.")
    console.print("mmclr papers KEY shows one with its formula and fields.")


def main(argv: list[str]) -> int | None:
    """Print the catalogue, one entry of it, or write the page."""
    parser = argparse.ArgumentParser(
        description="List the objectives: idea, needs, cost, state, and how to switch each on.",
        epilog="Switch one on in a config (objectives: {dcl: {}}) or take a ready one: mmclr train papers/dcl.yaml ...",
    )
    parser.add_argument("key", nargs="?", help="show this objective with its formula and fields")
    parser.add_argument("--json", action="store_true", help="print all as JSON, for scripts")
    parser.add_argument("--write", metavar="FILE", type=Path, help="write the page that PAPERS.md is")
    args = parser.parse_args(argv)
    found = entries()
    if args.write:
        text = page.page(found)
        written.write(args.write, text, "catalogue of objectives", lambda start: text.encode()[:60] == start[:60])
        say(f"wrote {args.write}: {len(found)} entries")
    elif args.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in found], indent=1))  # whole, for programs
    elif args.key:
        one = [entry for entry in found if entry.key == args.key]
        if not one:
            raise UserError(f"there is no objective {args.key!r}{nearest(args.key, [e.key for e in found])}")
        say(page.describe(one[0]))
    else:
        _show(found, Console())
    return None
