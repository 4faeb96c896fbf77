"""The user's own parts from outside the repository: modules and files that register something when they are imported.

A run's config names them (`plugins: [own.py, a_module]`), a command is given them (`--plugins own.py,a_module`), and
what an installed package names in the entry-point group `mmclr.plugins` is there by itself. Nothing else loads one: no
model folder, no checkpoint and no stored config that is only read, so strangers' files run no code.

A file is imported as `mmclr.plugins.STEM_DIGEST`, which worker processes find again by that name.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Container, Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mmclr import discovery
from mmclr.errors import UserError

T = TypeVar("T")
GROUP = "mmclr.plugins"  # of entry points
FILES = "MMCLR_PLUGIN_FILES"  # the files of this process by module name, as JSON, for the processes that it starts
__path__: list[str] = []  # so that this module may have others below it: the files
Command = Callable[[list[str]], Any]  # the arguments; None or an exit status
COMMANDS: dict[str, Command] = {}  # of plugins, by name
SUITES: dict[str, Any] = {}  # of plugins, by name
GIVEN: list[str] = []  # what the command line named, with whole paths
_lock = threading.RLock()
_looked = False  # for installed ones


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are files of plugins, in this process and in those that it starts."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = files().get(name) if name.startswith(f"{__name__}.") else None
        return importlib.util.spec_from_file_location(name, file) if file else None


sys.meta_path.append(_Finder())


def command(name: str) -> Callable[[Command], Command]:
    """Make a function of arguments the command `mmclr NAME`, such as "data shout"; it returns None or a status."""

    def of(main: Command) -> Command:
        register("command", COMMANDS, name, main)
        return main

    return of


def taken_from(words: list[str]) -> list[str]:
    """Return a command line without its `--plugins NAMES`, which are to be loaded (`load_given`)."""
    rest, names = [], []
    words = list(words)
    while words:
        option, equals, value = (word := words.pop(0)).partition("=")
        if option != "--plugins":
            rest.append(word)
        elif equals or words:
            names += (value if equals else words.pop(0)).split(",")
        else:
            raise UserError("--plugins: name modules or files, with commas between them: --plugins own.py,a_module")
    GIVEN[:] = located(names, Path.cwd())
    return rest


def load_given() -> None:
    """Load what the command line named."""
    load(GIVEN, "--plugins")


def suite(own: Any) -> Any:
    """Make a `mmclr.eval.suite.Suite` known by its name: in `mmclr eval`, lists of tasks, and evaluations of a run."""
    register("suite", SUITES, own.name, own)
    register("command", COMMANDS, f"eval {own.name}", own.main)
    return own


def commands(ours: Container[str]) -> Mapping[str, Command]:
    """Return the commands of the plugins that are loaded. Raises UserError where one has the name of ours."""
    return _of_no_name(ours, "command", COMMANDS)


def suites(ours: Container[str]) -> Mapping[str, Any]:
    """Return the suites of the plugins that are loaded. Raises UserError where one has the name of ours."""
    return _of_no_name(ours, "suite", SUITES)


def _of_no_name(ours: Container[str], kind: str, registry: dict[str, T]) -> dict[str, T]:
    for name in registry:
        if name in ours:
            where, who = origin(registry[name]), _name(registry[name])[1]
            raise UserError(f"the {kind} {name!r} is one of mmclr's own; {who} of {where} needs another name")
    return registry


def handed_on(names: Sequence[str]) -> list[str]:
    """Return the override by which a training in another process has the plugins of this command line, too."""
    return [f"plugins={json.dumps(list(names))}"] if GIVEN else []


def is_file(name: str) -> bool:
    """Say whether a name of a plugin means a file, and not a module."""
    return name.endswith(".py") or os.sep in name


def located(names: Iterable[str], folder: str | Path) -> list[str]:
    """Return the names with files as whole paths: those that lie in `folder` from there, others from here."""
    found = []
    for name in names:
        beside = Path(folder, os.path.expanduser(name))
        found.append(os.path.abspath(beside if beside.is_file() else name) if is_file(name) else name)
    return found


def is_module(name: str) -> bool:
    """Say whether the name's first part is a module that could be imported."""
    try:
        return name.replace(".", "").isidentifier() and importlib.util.find_spec(name.partition(".")[0]) is not None
    except ValueError:  # a module without a spec: __main__
        return False


def module_of(name: str) -> str:
    """Return the name of the module that a plugin's name means."""
    if not is_file(name):
        return name
    path = Path(os.path.abspath(os.path.expanduser(name)))
    stem = "".join(c if c.isalnum() else "_" for c in path.stem)
    return f"{__name__}.{stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def load(names: Iterable[str], where: str = "plugins") -> None:
    """Import modules and files, each once. Raises UserError, which says what is wrong in which file and line."""
    for name in names:
        with _lock:
            _load_file(os.path.expanduser(name), where) if is_file(name) else _load_module(name, where)


def not_loaded(config: Mapping[str, Any]) -> str:
    """Return the end of a sentence on what a stored config's plugins would bring: a stored config loads none."""
    names = config.get("plugins")
    if not isinstance(names, list) or not (missing := [name for name in map(str, names) if name not in GIVEN]):
        return ""
    return f"; its plugins are code that is not loaded unasked: if you trust it, add --plugins {','.join(missing)}"


def load_installed() -> None:
    """Import what installed packages name in the entry-point group `mmclr.plugins`, once."""
    global _looked
    with _lock:
        if _looked:
            return
        _looked = True  # first: what is imported may ask for it again
        from importlib.metadata import entry_points  # slower than all that the command line imports

        for point in entry_points(group=GROUP):
            who = f"{point.dist.name} {point.dist.version}" if point.dist else point.name
            try:
                _load_module(point.module, f"the installed package {who} (entry point {point.name} of {GROUP})")
            except UserError:
                _looked = False
                raise


def catalogue(package: str, registry: Mapping[str, T]) -> dict[str, T]:
    """Return the parts of a registry by key, sorted: ours, found by walking `package`, and those of plugins."""
    _walk(package)
    load_installed()
    return dict(sorted(registry.items()))


@functools.cache
def _walk(package: str) -> None:
    for module in discovery.modules(package):
        importlib.import_module(module)


def register(kind: str, registry: MutableMapping[str, T], key: str, part: T) -> None:
    """Add a part to the registry of its kind. Raises UserError where the key is another's.

    The same class of the same module may come again, as it does when a notebook's cell is run twice.
    """
    other = registry.get(key)
    if other is not None and _name(other) != _name(part):
        mine, theirs = (part, other) if is_ours(part) else (other, part)
        whose = f"one of mmclr's own ({_name(mine)[0]})" if is_ours(mine) else f"there already, of {origin(mine)}"
        raise UserError(f"the {kind} {key!r} is {whose}; {_name(theirs)[1]} of {origin(theirs)} needs another key")
    registry[key] = part


def is_ours(part: Any) -> bool:
    """Say whether a class, function or suite is of mmclr itself."""
    module = _name(part)[0]
    return module.startswith("mmclr.") and not module.startswith(f"{__name__}.")


def origin(part: Any) -> str:
    """Return where a class, function or suite comes from: a file, or a module; "" for our own."""
    module = _name(part)[0]
    return "" if is_ours(part) else files().get(module, module)


def about(part: Any) -> str:
    """Return the first line of what a class, function, module or suite says of itself, without the full stop."""
    part = getattr(part, "__self__", part)
    told = getattr(part, "about", None) or inspect.getdoc(part) or ""
    return str(told).strip().partition("\n")[0].removesuffix(".")


def _name(part: Any) -> tuple[str, str]:
    """Return the module and name of a class or function, or of the function behind a suite or its command.

    Of a module both are its name.
    """
    part = getattr(part, "__self__", part)
    if isinstance(part, ModuleType):
        return part.__name__, part.__name__
    part = part if hasattr(part, "__qualname__") else part.run
    return part.__module__, part.__qualname__


def files() -> dict[str, str]:
    """Return {module: path} of the files that were loaded, by this process or by the one that started it."""
    found: dict[str, str] = json.loads(os.environ.get(FILES, "{}"))
    return found


def _load_file(name: str, where: str) -> None:
    path = Path(os.path.abspath(name))
    if not path.is_file():
        raise UserError(f"{where}: {path}: no such file; put it there, or name the file where it lies now")
    module = module_of(name)
    os.environ[FILES] = json.dumps(files() | {module: str(path)})
    _import(module, where, str(path), (str(path),))


def _load_module(name: str, where: str) -> None:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{where}: {name!r} is no module and no file; write a_module, or path/to/file.py")
    if not is_module(name):
        raise UserError(
            f"{where}: there is no module {name}; install the package that it is in, or name a file: path/to/{name}.py"
        )
    spec = importlib.util.find_spec(name.partition(".")[0])
    assert spec is not None
    _import(name, where, name, (*(spec.submodule_search_locations or ()), spec.origin or ""))


def _import(module: str, where: str, shown: str, inside: tuple[str, ...]) -> None:
    """Import a module; whatever fails in it is a UserError with the line of it that failed."""
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and (error.name == module):
            raise UserError(f"{where}: there is no module {shown}; look for it in {inside[0]}") from error
        said = " ".join(str(error).split())
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        raise UserError(
            f"{where}: {_place(error, inside) or shown}: {kind}{said}; mend it, or leave the plugin out"
        ) from error


def _place(error: BaseException, inside: tuple[str, ...]) -> str:
    """Return file and line of the innermost call that lies in these files or folders."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    mine = [f for f in frames if any(p and (f[0] == p or f[0].startswith(p + os.sep)) for p in inside)]
    return f"{mine[-1][0]}, line {mine[-1][1]}" if mine else ""
