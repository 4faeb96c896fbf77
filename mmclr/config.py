"""Typed configs: frozen dataclasses, filled from YAML and dotted overrides, checked all at once.

Machinery only: which settings there are stands with the code that they set. `base:` names a file that is
merged beneath this one (deep merge, this one wins). Of keys that a class calls `alternatives` the one that stands
higher wins: `steps:` over a base's `epochs:`. There is no other composition rule. A class may have two functions of a
tree: `beside(tree, folder)` sees that of each file, and `prepared(tree)` the whole one before it is checked.
mmclr/storage/yaml_text.py reads the YAML.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from typing_extensions import dataclass_transform

from mmclr.display.secrets import redact_tree
from mmclr.errors import UserError
from mmclr.errors import nearest as nearest
from mmclr.storage import yaml_text

T = TypeVar("T")
_adapter: Any = functools.cache(pydantic.TypeAdapter)  # costs far more to make than to use
Tree = dict[str, Any]


class ConfigError(UserError):
    """A config that cannot be used; the message has one line per fault."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """Make `cls` a frozen keyword-only dataclass in which unknown keys are errors."""
    cls.__pydantic_config__ = pydantic.ConfigDict(  # type: ignore[attr-defined]
        extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def load(cls: type[T], source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> T:
    """Read `source` (a YAML file or a tree), apply `a.b=value` overrides, and check it against `cls`."""
    tree = read(source, cls) if isinstance(source, (str, Path)) else dict(source)
    above: Tree = {}
    for text in overrides:
        above = merge(above, parse_override(text, cls))
    prepared: Callable[[Tree], Tree] = getattr(cls, "prepared", dict)
    return check(cls, prepared(_home(lay_over(cls, _with_defaults(cls, tree, above), above))))


def read(path: str | Path, cls: Any = None) -> Tree:
    """Return the tree of a YAML file with its `base:` files merged beneath it, by the rules of `cls`."""
    return _read(find(path), (), cls)


def find(path: str | Path) -> Path:
    """Return the file `path`, or the config of that name (.yaml may be left out) which ships with mmclr."""
    here = Path(__file__).parent
    shipped = [here / "configs", here.parent / "configs"]  # in a wheel, in a checkout
    names = Path(path).name, Path(path).name + ".yaml"
    named = (p for root in shipped for name in names for p in sorted(root.rglob(name)))
    for candidate in (Path(path), *named):
        if candidate.is_file():
            return candidate
    known = sorted({p.stem for root in shipped for p in root.rglob("*.yaml")})
    raise ConfigError(f"{path}: no such config file{nearest(Path(path).stem, known)}")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Return `below` with `above` laid over it: mappings merge, everything else is replaced."""
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        out[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return out


def lay_over(cls: Any, below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Return `below` merged with `above`; of the alternatives of `cls` only those of `above` stay, if it sets any."""
    for group in getattr(cls, "alternatives", ()):
        if any(above.get(key) is not None for key in group):
            below = {key: value for key, value in below.items() if key not in group}
    return merge(below, above)


def parse_override(text: str, cls: Any = None) -> Tree:
    """Return `a.b=value` as a tree. The value is YAML, but text as it stands where `cls` has text there.

    So `name=001`, `out=run #2`, `data.train={0..9}.tar` and `data.train=*.tar` mean what they say; quotes around the
    whole value are taken off.
    """
    path, equals, value = text.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"{text!r} is not an override: write key.key=value, for example optim.lr=5e-4")
    kinds = set(_members(_kind_at(cls, keys)))
    tree = yaml_text.of_argument(value, only_text=str in kinds and kinds <= {str, type(None)})
    for key in reversed(keys):
        tree = {key: tree}
    return typing.cast(Tree, tree)


def check(cls: type[T], tree: Mapping[str, Any], where: str = "") -> T:
    """Build `cls` from `tree`, or raise one ConfigError that lists every fault with its dotted path."""
    _refuse_no_text(tree, where)
    try:
        return typing.cast(T, _adapter(cls).validate_python(tree))
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(dict.fromkeys(_described(cls, error.errors(), where)))) from None


def to_tree(value: Any) -> Tree:
    """Return the plain tree of a config, as YAML would hold it."""
    return typing.cast(Tree, _adapter(type(value)).dump_python(value, mode="json"))


def stored(value: Any) -> str:
    """Return a config as the YAML that is kept on disk: keys in the order of the fields, addresses without secrets."""
    return yaml.safe_dump(redact_tree(to_tree(value)), sort_keys=False, allow_unicode=True, width=110)


def save(value: Any, path: str | Path) -> None:
    """Write a config as YAML."""
    Path(path).write_text(stored(value), encoding="utf-8")


def _read(path: Path, seen: tuple[Path, ...], cls: Any) -> Tree:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: `base:` leads back to this file")
    try:
        tree = yaml_text.parse(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: not YAML: {_one_line(error)}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, not a {type(tree).__name__}")
    base = tree.pop("base", None)
    tree = cls.beside(tree, path.parent) if hasattr(cls, "beside") else tree
    if base is None:
        return tree
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{path}: `base:` names one config file, not {_short(base)}")
    beside = path.parent / base
    below = _read(beside if beside.is_file() else find(base), (*seen, path.resolve()), cls)
    return lay_over(cls, below, tree)


def _with_defaults(cls: Any, tree: Tree, above: Tree) -> Tree:
    """Return `tree` with the defaults of those mappings that only `above` sets: an override adds to a default."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    missing = {f.name: f.default_factory for f in fields if f.name in above and f.name not in tree}
    made = {name: make() for name, make in missing.items() if make is not dataclasses.MISSING}
    return {**tree, **{name: value for name, value in made.items() if isinstance(value, dict)}}


def _home(value: Any) -> Any:
    """Return a tree whose texts that begin with ~/ name the home folder: no shell expands a ~ behind a key."""
    if isinstance(value, dict):
        return {key: _home(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_home(inner) for inner in value]
    if isinstance(value, str) and ("~" in value):
        return "::".join(os.path.expanduser(p) if p == "~" or p.startswith("~/") else p for p in value.split("::"))
    return value


def _refuse_no_text(tree: Any, where: str) -> None:
    """Raise ConfigError for a text that no file name and no YAML file can hold, or that stands for one to be given."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            _refuse_no_text(value, f"{where}.{key}" if where else str(key))
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            _refuse_no_text(value, where)
    elif isinstance(tree, str) and ("\0" in tree or any("\ud800" <= c <= "\udfff" for c in tree)):
        raise ConfigError(f"{where}: {_short(tree)} holds a NUL or half of a character; write it as UTF-8 text")
    elif tree == "???":
        raise ConfigError(f"{where}: this config leaves it open; write {where}=VALUE")


def _described(cls: Any, faults: list[Any], where: str) -> list[str]:
    """Say pydantic's faults; where it tried each type of a union, say what is wrong with the one that is meant."""
    unions: dict[tuple[Any, ...], list[Any]] = {}  # place -> the faults of all its types
    for number, fault in enumerate(faults):
        loc = tuple(map(str, fault["loc"]))
        at = next((n for n in range(1, len(loc)) if len(_types(_kind_at(cls, loc[:n]))) > 1), None)
        unions.setdefault(loc[:at] if at else (*loc, number), []).append(fault)
    out = []
    for place, group in unions.items():
        at = len(place)
        meant = [fault for fault in group if len(fault["loc"]) > at + 1]  # what is given has this type from outside
        meant = meant or [fault for fault in group if not re.search("_type|_parsing|literal_error", fault["type"])]
        if not isinstance(place[-1], str) or group[0]["input"] is None or meant:
            out += [_describe(cls, fault, where) for fault in meant or group[:1]]
        else:
            path = ".".join([where, *place] if where else place)
            kinds = [_told(kind) for kind in _types(_kind_at(cls, place))]
            out.append(f"{path}: {' or '.join(dict.fromkeys(kinds))} is asked for (got {_short(group[0]['input'])})")
    return out


def _told(kind: Any) -> str:
    """Say a type in words."""
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    words = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}
    return words.get(typing.get_origin(kind) or kind, "a mapping of keys to values")


def _describe(cls: Any, fault: Any, where: str) -> str:
    """Say one pydantic fault in a line: the dotted path without names of types, what is wrong, what to write."""
    loc = [str(part) for part in fault["loc"]]
    labels = [n for n in range(1, len(loc)) if len(_types(_kind_at(cls, loc[:n]))) > 1]
    shown = [part for n, part in enumerate(loc) if n not in labels]
    path = ".".join([where, *shown] if where else shown)
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{path}: unknown key{nearest(loc[-1], _keys_at(cls, loc[:-1]))}"
    if fault["type"] in ("missing", "missing_keyword_only_argument", "missing_argument"):
        return f"{path}: missing, and it has no default"
    if fault["input"] is None:
        return f"{path}: it needs a value; write {path}=VALUE"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = re.sub("a (dictionary or an instance of .*|valid dictionary)", "a mapping of keys to values", message)
    if fault["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message[0].lower()}{message[1:]} (got {_short(fault['input'])})"


def _keys_at(cls: Any, loc: list[str]) -> list[str]:
    """Return the keys that the dataclass at `loc` below `cls` has."""
    kind = _without_none(_kind_at(cls, loc), loc[-1] if loc else "")
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def _kind_at(cls: Any, loc: Sequence[str]) -> Any:
    """Return the type that stands at `loc` below `cls`, None where there is none."""
    for part in loc:
        tried = next((kind for kind in _types(cls) if kind is not str and part.partition("[")[0] == _name(kind)), None)
        if tried is not None and len(_types(cls)) > 1:  # pydantic's name of the type that it tried
            cls = tried
            continue
        cls = _without_none(cls, part)
        if dataclasses.is_dataclass(cls):
            cls = typing.get_type_hints(cls).get(part)
        elif typing.get_origin(cls) in (dict, Mapping):
            cls = typing.get_args(cls)[1]
        elif typing.get_origin(cls) in (list, tuple):
            cls = typing.get_args(cls)[0]
    return cls


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _types(kind: Any) -> list[Any]:
    """Return the types of a union but None, or the one type."""
    return [member for member in _members(kind) if member is not type(None)]


def _name(kind: Any) -> str:
    return getattr(typing.get_origin(kind) or kind, "__name__", "")


def _without_none(kind: Any, part: str) -> Any:
    """Return the dataclass or container of a union: pydantic names the member it tried in the next part."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    members = [a for a in typing.get_args(kind) if a is not type(None)]
    return next((m for m in members if dataclasses.is_dataclass(m) or typing.get_origin(m)), members[0])


def _short(value: Any) -> str:
    text = repr(redact_tree(value))  # before it is cut: half an address is not known as one
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
