"""Evaluate with CLIP_benchmark's options: write `mmclr eval` for `clip_benchmark eval`.

    mmclr eval --dataset wds/cifar10 --dataset_root sets/wds_cifar10 --model runs/mine --task auto --output out.json

Each suite has a command of its own with more to say; `mmclr eval SUITE --help` explains it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from mmclr.eval import suites

from mmclr import discovery
from mmclr.display.terminal import say
from mmclr.errors import UserError

if TYPE_CHECKING:
    from mmclr.eval.embed.embedder import Embedder

# What needs torch is imported where it is used: the help of `mmclr eval` is there at once.
SUITES = {"zeroshot_classification": "zero_shot", "zeroshot_retrieval": "retrieval", "linear_probe": "linear_probe"}
PRECISIONS = ("float32", "float64", "bf16", "fp16")  # of the embedder
OUTPUT = "{dataset}_{pretrained}_{model}_{language}_{task}.json"
# accepted and without effect: they steer what works otherwise here
IDLE = ("model_type", "model_cache_dir", "feature_root", "normalize", "fewshot_epochs", "fewshot_lr", "wds_cache_dir",
        "val_proportion", "seed")  # fmt: skip


def main(argv: list[str]) -> None:
    """Evaluate every model on every set in every language."""
    args = parser().parse_args(argv or ["--help"])
    from mmclr.eval.embed import ranks

    ranks.join()
    for source, embedder in models(args):
        for name, language in product(datasets(args.dataset), args.language):
            evaluate(args, source, embedder, name, language)
    ranks.leave()


def evaluate(args: argparse.Namespace, source: str, embedder: Embedder, name: str, language: str) -> None:
    """Run one task and write its JSON."""
    from mmclr.eval.embed import ranks
    from mmclr.eval.result import check

    plain = name.removeprefix("wds/")
    root = Path(args.dataset_root.format(dataset=plain, dataset_cleaned=plain.replace("/", "-")))
    task = args.task if args.task != "auto" else _task(root)
    if task not in SUITES:
        raise UserError(f"--task {task}: such sets have a suite of their own, see mmclr eval compositional --help")
    slugs = {
        "dataset": plain.replace("/", "_"),
        "pretrained": embedder.pretrained,
        "language": language,
        "task": task,
        "model": source.replace("/", "_"),
    }
    out = Path(args.output.format(**slugs))
    if args.skip_existing and out.is_file():
        return
    check(out)
    given = ["--data", str(root), "--dataset", name, "--split", args.split, "--language", language]
    if task == "zeroshot_retrieval":
        given += ["--recall_k", *map(str, args.recall_k)]
    if task == "linear_probe":
        given += ["--train", str(root), "--train_split", args.train_split, "--fewshot_k", str(args.fewshot_k)]
    for option in ("custom_classname_file", "custom_template_file"):
        if getattr(args, option) and task != "zeroshot_retrieval":
            given += [f"--{option}", getattr(args, option)]
    result = suites.find(SUITES[task]).measure(given, embedder)
    if ranks.speaks():
        result.show()
        say(f"written: {result.save(out)}")


def models(args: argparse.Namespace) -> Iterator[tuple[str, Embedder]]:
    """Load each model in turn."""
    from mmclr.eval import options

    pairs = [tuple(full.rsplit(",", 1)) for full in args.pretrained_model] or list(product(args.model, args.pretrained))
    for model, pretrained in pairs:
        given = argparse.Namespace(**{**vars(args), "source": source_of(model, pretrained), "pretrained": pretrained})
        embedder = options.embedder(given)
        embedder.name = model
        yield model, embedder


def source_of(model: str, pretrained: str) -> str:
    """Return what names a model here: its folder, or open_clip's architecture and tag."""
    folder = model.removeprefix("local-dir:")
    if model.startswith("local-dir:") or Path(folder).is_dir() or ":" in model or not pretrained:
        return folder
    return f"open_clip:{model}/{pretrained}"


def datasets(names: list[str]) -> Iterator[str]:
    """Return names as results have them; a file names one a line."""
    for name in names:
        yield from (line for line in Path(name).read_text().split() if line) if Path(name).is_file() else (name,)


def _task(root: Path) -> str:
    path = root / "dataset_type.txt"
    return (
        "zeroshot_retrieval"
        if path.is_file() and path.read_text().strip() == "retrieval"
        else "zeroshot_classification"
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser, with CLIP_benchmark's names and defaults."""
    commands = discovery.by_name("mmclr.eval.suites", "mmclr.eval.commands")
    table = "\n".join(f"  mmclr eval {name:<14} {discovery.first_line(module)}" for name, module in commands.items())
    p = argparse.ArgumentParser(
        "mmclr eval",
        description=__doc__,
        epilog=f"suites, and what works with their results:\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--dataset", nargs="+", required=True, help="name(s) for the result, or a file with one a line")
    p.add_argument(
        "--dataset_root",
        default="root",
        help="the set's folder; {dataset} and {dataset_cleaned} stand for the name in it",
    )
    p.add_argument("--split", "--test_split", default="test")
    p.add_argument("--train_split", default="train")
    p.add_argument(
        "--model", nargs="+", default=[], help="runs, exports, local-dir:FOLDER, or open_clip's architectures"
    )
    p.add_argument("--pretrained", nargs="+", default=[""], help="tags of open_clip's weights")
    p.add_argument("--pretrained_model", nargs="+", default=[], metavar="MODEL,PRETRAINED")
    p.add_argument("--task", default="auto", choices=[*SUITES, "auto", "captioning", "image_caption_selection"])
    p.add_argument("--language", nargs="+", default=["en"])
    p.add_argument("--output", default=OUTPUT, metavar="TEMPLATE", help=f"default {OUTPUT}; a / in a name becomes _")
    p.add_argument("--recall_k", type=int, nargs="+", default=[5])
    p.add_argument("--fewshot_k", type=int, default=-1)
    p.add_argument("--batch_size", "--batch", dest="batch", type=int, default=64)
    p.add_argument("--num_workers", "--workers", dest="workers", type=int, default=4)
    p.add_argument("--custom_classname_file", help="JSON: {dataset: [names]}, or a list")
    p.add_argument("--custom_template_file", help="JSON: {dataset: [templates]} or {dataset: {class: [prompts]}}")
    p.add_argument("--skip_existing", action="store_true")
    p.add_argument("--no_amp", action="store_true", help="float32, which is the default here")
    p.add_argument("--precision", choices=PRECISIONS, default="float32")
    p.add_argument("--head", choices=("post", "pre"), default="post", help=argparse.SUPPRESS)
    p.add_argument("--device", default="auto")
    p.add_argument("--cache", default="", metavar="DIR")
    p.add_argument("--quiet", action="store_true", help=argparse.SUPPRESS)
    p.add_argument("--distributed", action="store_true", help="start it with accelerate launch or torchrun instead")
    for name in IDLE:
        p.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return p
