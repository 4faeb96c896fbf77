"""The command line: one table from a command to the function that does it, imported only when it is called."""

from __future__ import annotations

import importlib
import sys

from mmclr import __version__
from mmclr.allocator import keep_freed_memory
from mmclr.config import nearest
from mmclr.display import output
from mmclr.display.terminal import say
from mmclr.errors import run
from mmclr.secrets import redact
from mmclr.spinning import let_threads_sleep

# command: (module:function, one line of help). A function takes the remaining arguments, has its own --help,
# and returns None or an exit status.
COMMANDS = {
    "demo": ("mmclr.demo.command:main", "train, evaluate and export a small model on real icons, then show a report"),
    "train": (
        "mmclr.train.command:main",
        "train a model from a config (--processes N: on several GPUs of this machine)",
    ),
    "compare": (
        "mmclr.compare.command:main",
        "train several configs on one budget and say which is better, how surely",
    ),
    "eval": ("mmclr.eval.commands.benchmark:main", "with CLIP_benchmark's options; the suites below have more to say"),
    "eval retrieval": (
        "mmclr.eval.suites.retrieval.retrieval:main",
        "rank captions for images and images for captions: recall at 1, 5, 10",
    ),
    "eval zero_shot": (
        "mmclr.eval.suites.classification.zero_shot:main",
        "classify images from class names and templates",
    ),
    "eval caption": (
        "mmclr.eval.suites.retrieval.caption:main",
        "captions that the model writes against references: CIDEr, BLEU, ...",
    ),
    "eval compositional": (
        "mmclr.eval.suites.retrieval.compositional:main",
        "tell captions apart that share their words: SugarCrepe, ARO, ...",
    ),
    "eval conditional": (
        "mmclr.eval.suites.retrieval.conditional:main",
        "find what is similar under a condition: GeneCIS",
    ),
    "eval loss": (
        "mmclr.eval.suites.geometry.loss:main",
        "contrastive loss on a set, whatever batches a model was trained with",
    ),
    "eval geometry": (
        "mmclr.eval.suites.geometry.geometry:main",
        "gap, spread, spectrum and hardness of the embeddings",
    ),
    "eval temperature": (
        "mmclr.eval.suites.geometry.temperature:main",
        "what other temperatures would make of a model's embeddings",
    ),
    "eval linear_probe": ("eval.suites.probes.linear_probe:main", "fit a linear classifier on image features"),
    "eval knn": ("eval.suites.probes.knn:main", "classify by the nearest labelled pictures"),
    "eval few_shot": ("mmclr.eval.suites.probes.few_shot:main", "episodes of a few classes with a few pictures each"),
    "eval robustness": (
        "mmclr.eval.suites.classification.robustness:main",
        "zero-shot accuracy that is left on spoilt pictures",
    ),
    "eval all": ("mmclr.eval.commands.all:main", "a list of tasks on one model (YAML, or DataComp's tasklist.yml)"),
    "eval compare": (
        "mmclr.eval.commands.compare:main",
        "is one model better than another: paired tests on the same samples",
    ),
    "caption": ("mmclr.data_tools.caption:main", "write captions of pictures, with a model that has a captioner"),
    "report": ("mmclr.report.command:main", "write one HTML page of a run, of evaluations, or of both"),
    "export transformers": (
        "mmclr.export.commands.transformers:main",
        "write a CLIPModel folder with processor, tokenizer, card",
    ),
    "export open_clip": ("mmclr.export.commands.open_clip:main", "write a folder that open_clip and its tools load"),
    "export onnx": ("mmclr.export.commands.onnx:main", "write both encoders as graphs for onnxruntime, in int8 too"),
    "export stages": ("mmclr.export.commands.stages:main", "several trained models side by side as one (MCL)"),
    "export hub": ("mmclr.export.commands.hub:main", "upload an export to the Hugging Face Hub; --dry-run shows what"),
    "export verify": ("mmclr.export.commands.verify:main", "check that a folder is what was exported"),
    "import": ("mmclr.export.import_model:main", "take a released CLIP or SigLIP in as a model folder"),
    "data index": ("mmclr.data_tools.commands.inspect.index:main", "scan shards into their sidecar indices"),
    "data verify": (
        "mmclr.data_tools.commands.inspect.verify:main",
        "find truncated shards, half samples, undecodable pictures",
    ),
    "data caption": (
        "mmclr.data_tools.commands.enrich.caption:main",
        "add generated captions to shards, beside the original ones",
    ),
    "data cluster": (
        "mmclr.data_tools.commands.curate.cluster:main",
        "label pictures with their nearest clusters, by k-means of a model",
    ),
    "data columns": (
        "mmclr.data_tools.commands.enrich.columns:main",
        "values per sample beside shards: list, export, import by key",
    ),
    "data stats": ("mmclr.data_tools.commands.inspect.stats:main", "count samples, captions, sizes"),
    "data pack": (
        "mmclr.data_tools.commands.convert.pack:main",
        "write pictures and captions from folders and tables into shards",
    ),
    "data reshard": (
        "mmclr.data_tools.commands.convert.reshard:main",
        "shards of another size, shuffled, or a DataComp subset of them",
    ),
    "data peek": (
        "mmclr.data_tools.commands.inspect.peek:main",
        "look at random pictures with their captions, as PNG or HTML",
    ),
    "data bench": (
        "mmclr.data_tools.commands.inspect.bench:main",
        "is the loader fast enough, and what does it wait for",
    ),
    "data icons": (
        "mmclr.data_tools.commands.convert.icons:main",
        "pack about 14,000 named icons, the demo's pictures, into shards",
    ),
    "data tokenizer": (
        "mmclr.data_tools.commands.enrich.tokenizer:main",
        "train a small BPE tokenizer on the captions of shards",
    ),
    "data to-eval": (
        "mmclr.data_tools.commands.convert.to_eval:main",
        "write any evaluation set in CLIP_benchmark's layout",
    ),
    "doctor": (
        "mmclr.doctor.command:main",
        "check this machine, and a run before it starts; --fix mends what can be mended",
    ),
    "papers": (
        "mmclr.papers.catalogue:main",
        "list the objectives: formula, needs, cost, state, how to switch each on",
    ),
    "check": ("mmclr.laws.command:main", "hold an objective of your own, in any file, to the laws of all objectives"),
}
GO_ON = {"train", "compare", "demo"}  # commands that do not end because nobody reads what they say


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv` names; return its exit status."""
    output.guard()
    return run("mmclr", _dispatch, sys.argv[1:] if argv is None else argv)


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0
    if args[0] == "--version":
        say(f"mmclr {__version__}")
        return 0
    name = next((n for n in (" ".join(args[:2]), args[0]) if n in COMMANDS), None)
    if name is None:
        return _unknown(args)
    module, function = COMMANDS[name][0].split(":")
    sys.argv = [f"mmclr {name}", *map(redact, args)]  # trackers keep it with the run
    keep_freed_memory()
    let_threads_sleep()
    command = getattr(importlib.import_module(module), function)
    with output.swallowed(name in GO_ON):
        return run(f"mmclr {name}", command, args[len(name.split()) :])


def _unknown(args: list[str]) -> int:
    inside = [name for name in COMMANDS if name.startswith(args[0] + " ")]
    if inside and len(args) > 1 and args[1] not in ("-h", "--help"):
        say(
            f"mmclr: no command {' '.join(args[:2])!r}{nearest(' '.join(args[:2]), inside)}",
            file=sys.stderr,
        )
        return 2
    if inside:
        say(_help(args[0] + " "))
        return 0
    say(f"mmclr: there is no command {args[0]!r}{nearest(args[0], COMMANDS)}", file=sys.stderr)
    return 2


def _help(prefix: str = "") -> str:
    rows = [f"  mmclr {name:<22} {text}" for name, (_, text) in COMMANDS.items() if name.startswith(prefix)]
    usage = f"usage: mmclr {prefix}COMMAND [arguments]    (mmclr COMMAND --help explains each)\n"
    return "\n".join([usage, *rows])


if __name__ == "__main__":
    sys.exit(main())
