"""Typed configs: frozen dataclasses, filled from YAML and dotted overrides, checked all at once.

Machinery only: which settings there are stands with the code that they set. `base:` names a file that is
merged beneath this one (deep merge, this one wins); there is no other composition rule.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from typing_extensions import dataclass_transform

from mmclr.errors import UserError
from mmclr.secrets import redact_tree

T = TypeVar("T")
Tree = dict[str, Any]


class ConfigError(UserError):
    """A config that cannot be used; the message has one line per fault."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """Make `cls` a frozen keyword-only dataclass in which unknown keys are errors."""
    cls.__pydantic_config__ = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def load(cls: type[T], source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> T:
    """Read `source` (a YAML file or a tree), apply `a.b=value` overrides, and check it against `cls`."""
    tree = read(source) if isinstance(source, (str, Path)) else dict(source)
    for text in overrides:
        tree = merge(tree, parse_override(text))
    return check(cls, tree)


def read(path: str | Path) -> Tree:
    """Return the tree of a YAML file with its `base:` files merged beneath it."""
    return _read(find(path), ())


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


def parse_override(text: str) -> Tree:
    """Return `a.b=value` as a tree; the value is read as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"{text!r} is not an override: write key.key=value, for example optim.lr=5e-4")
    try:
        tree: Any = yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r}: the value is not YAML ({_one_line(error)}); quote it") from error
    for key in reversed(path.split(".")):
        tree = {key: tree}
    return typing.cast(Tree, tree)


def check(cls: type[T], tree: Mapping[str, Any], where: str = "") -> T:
    """Build `cls` from `tree`, or raise one ConfigError that lists every fault with its dotted path."""
    try:
        return pydantic.TypeAdapter(cls).validate_python(tree)
    except pydantic.ValidationError as error:
        lines = [_describe(cls, fault, where) for fault in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def to_tree(value: Any) -> Tree:
    """Return the plain tree of a config, as YAML would hold it."""
    return typing.cast(Tree, pydantic.TypeAdapter(type(value)).dump_python(value, mode="json"))


def stored(value: Any) -> str:
    """Return a config as the YAML that is kept on disk: keys in the order of the fields, addresses without secrets."""
    return yaml.safe_dump(redact_tree(to_tree(value)), sort_keys=False, allow_unicode=True, width=110)


def save(value: Any, path: str | Path) -> None:
    """Write a config as YAML."""
    Path(path).write_text(stored(value), encoding="utf-8")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as people mean it: `5e-4` is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def _read(path: Path, seen: tuple[Path, ...]) -> Tree:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: `base:` leads back to this file")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {_one_line(error)}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, not a {type(tree).__name__}")
    base = tree.pop("base", None)
    if base is None:
        return tree
    beside = path.parent / base
    below = _read(beside if beside.is_file() else find(base), (*seen, path.resolve()))
    return merge(below, tree)


def _describe(cls: Any, fault: Any, where: str) -> str:
    """Say one pydantic fault in a line: the dotted path, what is wrong, what to write."""
    loc = [str(part) for part in fault["loc"]]
    path = ".".join([where, *loc] if where else loc)
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{path}: unknown key{nearest(loc[-1], _keys_at(cls, loc[:-1]))}"
    if fault["type"] in ("missing", "missing_keyword_only_argument", "missing_argument"):
        return f"{path}: missing, and it has no default"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if fault["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message[0].lower()}{message[1:]} (got {_short(fault['input'])})"


def _keys_at(cls: Any, loc: list[str]) -> list[str]:
    """Return the keys that the dataclass at `loc` below `cls` has."""
    for part in loc:
        if dataclasses.is_dataclass(cls):
            cls = typing.get_type_hints(cls).get(part)
        elif typing.get_origin(cls) in (dict, Mapping):
            cls = typing.get_args(cls)[1]
        elif typing.get_origin(cls) in (list, tuple):
            cls = typing.get_args(cls)[0]
        cls = _without_none(cls, part)
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def _without_none(kind: Any, part: str) -> Any:
    """Return the dataclass or container of a union: pydantic names the member it tried in the next part."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    members = [a for a in typing.get_args(kind) if a is not type(None)]
    return next((m for m in members if dataclasses.is_dataclass(m) or typing.get_origin(m)), members[0])


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the known one that is meant, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(names)}" if names else ""


def _short(value: Any) -> str:
    text = repr(redact_tree(value))  # before it is cut: half an address is not known as one
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
