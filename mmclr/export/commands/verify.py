"""Check that a folder is what was exported, and that it agrees with a checkpoint."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from mmclr import discovery
from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.export import parity
from mmclr.export.format import WIDE
from mmclr.export.origin import Source


def main(argv: list[str]) -> None:
    """`mmclr export verify FOLDER [CHECKPOINT]`."""
    parser = argparse.ArgumentParser(
        description="Compare the files of an export with the hashes that were taken when it was written. With a "
        "checkpoint, load the folder too and compare features, token ids and pixels.",
        epilog="example: mmclr export verify my-clip runs/demo",
    )
    parser.add_argument("folder", help="an export: transformers, open_clip or onnx")
    parser.add_argument("checkpoint", nargs="?", help="a run, checkpoint or model folder that it should agree with")
    parser.add_argument("--weights", choices=["auto", "average", "model"], default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    args = parser.parse_args(argv)
    verify_files(Path(args.folder))
    found = verify(Path(args.folder), args.checkpoint, args.weights) if args.checkpoint else {}
    if args.json:
        say(json.dumps({"folder": args.folder, "checkpoint": args.checkpoint, "largest_differences": found}))
        return
    say(f"{args.folder}: all files are as they were exported")
    for name, value in found.items():
        say(f"largest difference of {name.replace('_', ' ')}: {value:.3g}")


def verify_files(folder: Path) -> None:
    """Raise where a file of an export is missing, changed or new."""
    if not (folder / parity.REPORT).is_file():
        raise UserError(f"{folder}: no {parity.REPORT} there, so it is not an export of mmclr")
    then, now = json.loads((folder / parity.REPORT).read_text())["files"], parity.hashes(folder)
    kinds = {
        "missing": sorted(then.keys() - now.keys()),
        "changed": sorted(name for name in then.keys() & now.keys() if then[name] != now[name]),
        "not of the export": sorted(now.keys() - then.keys()),
    }
    faults = [f"{', '.join(names)} {kind}" for kind, names in kinds.items() if names]
    if faults:
        raise UserError(f"{folder}: not what was exported ({'; '.join(faults)}); export it again")


def verify(folder: Path, checkpoint: str | Path, weights: str = "auto") -> dict[str, float]:
    """Return the largest differences between an export and a checkpoint; raise where they are too large."""
    found = _module(folder)
    report = json.loads(path.read_text()) if (path := folder / parity.REPORT).is_file() else {}
    source = Source.open(checkpoint, weights, report.get("dtype", "float32"), report.get("head", ""))
    differences = parity.compare(source, found.load(folder))
    parity.bound(differences, folder, found.FORMAT.tolerance)
    return differences


def _module(folder: Path) -> Any:
    """Return the command that writes folders like this one: of those that have a FORMAT, the first whose file is there.

    WIDE tells least, so it is asked for last.
    """
    modules = map(importlib.import_module, discovery.modules(__name__.rpartition(".")[0]))
    formats = sorted((m for m in modules if hasattr(m, "FORMAT")), key=lambda m: m.FORMAT.file == WIDE)
    for module in formats:
        if (folder / module.FORMAT.file).is_file():
            return module
    files = ", ".join(module.FORMAT.file for module in formats)
    raise UserError(f"{folder}: none of {files} there, so it is not an export of mmclr")
