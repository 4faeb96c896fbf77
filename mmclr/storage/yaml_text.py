"""YAML as people mean it: the core schema of YAML 1.2, and values on a command line that are text as they stand.

PyYAML follows YAML 1.1, in which 5e-4 is text, 010 is 8, 1:30 is 90, no is false and 2026-11-28 is a date.
"""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """SafeLoader with the resolvers of YAML 1.2; digits behind a leading zero stay text, for they are names."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


def _resolve(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))


_resolve("null", "~|null|Null|NULL|", "~nN")
_Loader.yaml_implicit_resolvers[""] = [("tag:yaml.org,2002:null", re.compile("^$"))]
_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("int", "[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+|0b[01_]+", "-+0123456789")
_resolve(
    "float",
    r"[-+]?(?:[0-9][0-9_]*)?\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+.0123456789",
)
_resolve("merge", "<<", "<")


LARGEST = 100_000  # values of a document, those that aliases repeat counted each time


def parse(text: str) -> Any:
    """Return the value of a YAML document. Raises ValueError, also for one that aliases blow up."""
    try:
        found = yaml.load(text, _Loader)
        _count(found, 0)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error) or "it is nested too deep") from error
    return found


def of_argument(text: str, only_text: bool) -> Any:
    """Return the value of a command-line argument: YAML, or the text as it stands where that is what is meant.

    only_text: text is asked for, so that 001, [x] and #2 are text. Elsewhere text is what YAML takes for text, and
    what it cannot read, as *.tar or {0..9}.tar. Quotes around all of it are taken off; null is null.
    """
    bare = text.strip()
    try:
        found = parse(bare)
    except ValueError:
        return bare
    if bare[:1] in ("'", '"') or bare in ("null", ""):
        return found
    braces = isinstance(found, dict) and ":" not in bare  # {a,b} of file names
    if only_text or isinstance(found, str) or braces or (found is None and bare != "~"):
        return bare
    return found


def _count(value: Any, so_far: int) -> int:
    if so_far > LARGEST:
        raise ValueError(f"it holds more than {LARGEST:,} values")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        so_far = _count(one, so_far)
    return so_far + 1
