"""Options that all evaluation commands have: a model and a set.

Names that CLIP_benchmark's command line has are accepted too, so a script swaps over by changing the command.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmclr.eval.embed.embedder import DTYPES, Embedder
from mmclr.eval.embed.store import standard
from mmclr.eval.sets.evaluation_set import MAX_FAULTS, EvalSet, Templates, names_of, read_lines
from mmclr.eval.sets.sources import open_set

from mmclr.data.tabular import rows
from mmclr.errors import UserError


def add_model(p: argparse.ArgumentParser) -> None:
    """Add what says which model is evaluated, and how it computes."""
    p.add_argument(
        "source",
        nargs="?",
        metavar="MODEL",
        help="a run, a checkpoint, an export; a folder of transformers (CLIP, SigLIP) or open_clip; "
        "open_clip:ARCHITECTURE/TAG; owner/name on the Hub",
    )
    p.add_argument("--model", help="the same, as CLIP_benchmark names it")
    p.add_argument("--pretrained", default="", help="goes into the result as it is (CLIP_benchmark's field)")
    p.add_argument("--batch", "--batch_size", "--batch-size", type=int, default=256, help="images at a time")
    p.add_argument("--workers", "--num_workers", "--num-workers", type=int, default=2, help="threads that decode")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    p.add_argument(
        "--precision", choices=DTYPES, default="float32", help="of the encoders; float64 leaves no near ties"
    )
    p.add_argument(
        "--head",
        default="post",
        metavar="post|pre|OBJECTIVE",
        help="features after the projection, before "
        "it (images only), or behind the head with which the run trained this objective",
    )
    p.add_argument("--no_amp", "--no-amp", action="store_true", help="float32, which is the default here")
    p.add_argument(
        "--cache",
        default="",
        metavar="DIR",
        help="where embeddings stay, by content, for the next suite (default: the user's cache folder; none: nowhere)",
    )


def embedder(args: argparse.Namespace) -> Embedder:
    """Load the model that the arguments name."""
    source = args.source or args.model
    if not source:
        raise UserError("name a model: a run, a checkpoint, or an exported folder")
    cache = None if args.cache == "none" else Path(args.cache) if args.cache else standard()
    return Embedder.load(
        source,
        device=args.device,
        precision=args.precision,
        batch=args.batch,
        workers=args.workers,
        head=args.head,
        pretrained=args.pretrained,
        cache=cache,
    )


def add_data(p: argparse.ArgumentParser) -> None:
    """Add what says where the set is and what is read of it."""
    p.add_argument(
        "--data",
        "--dataset_root",
        "--dataset-root",
        required=True,
        metavar="DATA",
        help="shards (braces, globs, '::'-joined), a folder in CLIP_benchmark's layout, a folder of class folders, "
        "a .csv (filepath, title) or a .json of captions (COCO's or Karpathy's)",
    )
    p.add_argument("--dataset", default="", metavar="NAME", help="the set's name in the result")
    p.add_argument(
        "--images", type=Path, metavar="DIR", help="where the files of a .csv or .json lie; default: beside it"
    )
    p.add_argument("--split", default="test", help="folder of CLIP_benchmark's layout, or split of Karpathy's json")
    p.add_argument(
        "--caption", metavar="FIELD", help="where shards keep captions: txt (so without --label) or json:FIELD"
    )
    p.add_argument(
        "--image_members",
        "--image-members",
        nargs="+",
        metavar="MEMBER",
        help="where shards keep the images of a sample that has several, which count as one: jpg 1.jpg 2.jpg, or "
        "json:FIELD with a list of such (default: a sample has one image)",
    )
    p.add_argument("--language", default="en", help="goes into the result as it is")
    p.add_argument(
        "--encoding", default="", help="of a .csv, .tsv or .jsonl (default: UTF-8, or its byte order mark's)"
    )
    p.add_argument(
        "--max_faults",
        "--max-faults",
        type=float,
        default=MAX_FAULTS,
        metavar="SHARE",
        help="samples that may be damaged; with more the evaluation ends (default 0.01, and any ten)",
    )
    p.set_defaults(label="", classnames=None, template=None, templates=None)


def add_classes(p: argparse.ArgumentParser) -> None:
    """Add what says which classes there are and how they are put into words."""
    p.add_argument("--label", default="", metavar="FIELD", help="where shards keep the class: cls or json:FIELD")
    p.add_argument(
        "--classnames",
        "--custom_classname_file",
        type=Path,
        metavar="FILE",
        help="names, one a line (or a JSON list, or a JSON mapping from sets to lists); default: the sorted distinct "
        "values of the label",
    )
    p.add_argument(
        "--template", nargs="+", metavar="TEXT", help="templates with a slot {c}; default: the set's, or {c}"
    )
    p.add_argument(
        "--templates",
        "--custom_template_file",
        type=Path,
        metavar="FILE",
        help="templates, one a line; or a JSON list, or a JSON mapping from each class to its own prompts",
    )


def dataset(args: argparse.Namespace, **changes: Any) -> EvalSet:
    """Open the set that the arguments name; `changes` replace some of them."""
    given: dict[str, Any] = {name: getattr(args, name) for name in ("data", "split", "caption", "label", "images")}
    members = args.image_members or [""]
    given["image_members"] = members[0] if len(members) == 1 else members
    given |= {"name": args.dataset, "language": args.language, "encoding": args.encoding, "max_faults": args.max_faults}
    given["templates"] = args.template or (_templates(args.templates, args.dataset) if args.templates else None)
    given["classnames"] = _names(args.classnames, args.dataset) if args.classnames else []
    return open_set(**{**given, **changes})


def _names(path: Path, dataset: str) -> list[str]:
    return names_of(_of_dataset(path, dataset), path) if path.suffix == ".json" else read_lines(path)


def _templates(path: Path, dataset: str) -> Templates:
    if path.suffix != ".json":
        return read_lines(path)
    found = _of_dataset(path, dataset)
    if isinstance(found, dict):
        return {name: names_of(prompts, path) for name, prompts in found.items()}
    return names_of(found, path)


def _of_dataset(path: Path, dataset: str) -> Any:
    """Read a JSON file; where it maps sets to what is asked for (CLIP_benchmark's form), take this set's part."""
    tree = rows.read_json(path)
    name = dataset.removeprefix("wds/")
    return tree[name] if isinstance(tree, dict) and name in tree else tree
