"""The command line: the word behind `mmclr` leads to a module, which is imported only when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping

from mmclr import __version__, discovery, plugins
from mmclr.display import output
from mmclr.display.secrets import redact
from mmclr.display.terminal import say
from mmclr.errors import run
from mmclr.runtime.allocator import keep_freed_memory
from mmclr.runtime.spinning import let_threads_sleep

# A module of a command has `main(arguments)`, which has its own --help and returns None or an exit status; the first
# line of its docstring is its help in one line.
ROOMS = {  # first word: the packages whose modules are the commands behind it, found by walking
    "eval": ("mmclr.eval.suites", "mmclr.eval.commands"),
    "data": ("mmclr.data_tools.commands",),  # here a dash stands for an underscore: data to-eval
    "export": ("mmclr.export.commands",),
}
COMMANDS = {  # the others
    "demo": "mmclr.demo.command",
    "train": "mmclr.train.command",
    "compare": "mmclr.compare.command",
    "eval": "mmclr.eval.clip_benchmark",
    "caption": "mmclr.data_tools.caption",
    "report": "mmclr.report.command",
    "import": "mmclr.export.import_model",
    "doctor": "mmclr.doctor.command",
    "papers": "mmclr.papers.catalogue",
    "check": "mmclr.laws.command",
}
GO_ON = {"train", "compare", "demo"}  # commands that do not end because nobody reads what they say


def commands() -> dict[str, str]:
    """Return the module of every command by its name, in the order of the help; none is imported."""
    found = dict(COMMANDS)
    for word, packages in ROOMS.items():
        for name, module in discovery.by_name(*packages).items():
            found[f"{word} {name.replace('_', '-') if word == 'data' else name}"] = module
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv` names; return its exit status."""
    output.guard()
    return run("mmclr", _dispatch, sys.argv[1:] if argv is None else argv)


def _dispatch(words: list[str]) -> int:
    args = plugins.taken_from(words)
    if args[:1] == ["help"]:
        args = [*args[1:], "--help"]
    known = commands()
    if not args or args[0] in ("-h", "--help"):
        print(_help(known))
        return 0
    if args[0] == "--version":
        say(f"mmclr {__version__}")
        return 0
    keep_freed_memory()
    let_threads_sleep()
    name = _named(args, known)
    plugins.load_given()
    if name is None:
        plugins.load_installed()
    theirs = plugins.commands(known)
    name = name or _named(args, theirs)
    if name is None:
        return _unknown(args, known, theirs)
    sys.argv = [f"mmclr {name}", *map(redact, words)]  # trackers keep it with the run
    command = theirs[name] if name in theirs else importlib.import_module(known[name]).main
    with output.swallowed(name in GO_ON):
        return run(f"mmclr {name}", command, args[len(name.split()) :])


def _named(args: list[str], known: Iterable[str]) -> str | None:
    """Return the command that the first words name, with dashes or underscores; None where there is none."""
    spelled = {name.replace("-", "_"): name for name in known}
    if name := spelled.get(" ".join(args[:2]).replace("-", "_")):
        return name
    if args[0] in ROOMS and len(args) > 1 and not args[1].startswith("-"):
        return None  # a word that is in none of these rooms is no argument of the command of the same name
    return spelled.get(args[0].replace("-", "_"))


def _unknown(args: list[str], ours: Mapping[str, str], theirs: Mapping[str, plugins.Command]) -> int:
    known = [*ours, *theirs]
    inside = [name for name in known if name.startswith(args[0] + " ")]
    if inside and (len(args) == 1 or args[1] in ("-h", "--help")):
        say(_help({name: ours[name] for name in inside if name in ours}, args[0] + " "))
        for name in sorted(set(inside) & set(theirs)):
            say(f"  mmclr {name:<20} {plugins.about(theirs[name])}")
        return 0
    from mmclr.config import nearest  # pydantic, which it brings, takes longer than all help

    if inside:
        said = f"no command {' '.join(args[:2])!r}{nearest(' '.join(args[:2]), inside)}"
    else:
        said = f"there is no command {args[0]!r}{nearest(args[0], known)}"
    say(f"mmclr: {said}", file=sys.stderr)
    return 2


def _help(known: Mapping[str, str], prefix: str = "") -> str:
    lines, room = [f"usage: mmclr {prefix}COMMAND [arguments]    (mmclr COMMAND --help explains each)"], None
    lines += ["--plugins own.py,a_module among the arguments loads parts of your own first: objectives, heads, ..."]
    for name, module in known.items():
        lines += [""] if room != (room := name.partition(" ")[0] if " " in name else "") else []
        lines.append(f"  mmclr {name:<20} {discovery.first_line(module)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
