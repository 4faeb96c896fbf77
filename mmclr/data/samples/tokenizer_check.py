"""Check a stranger's tokenizer.json before it runs: it cannot be stopped once it is in a text, so it is read first.

What it may hold is small: expressions whose time is bounded by the text's length, replacements that do not multiply a
text, templates of a few tokens. Tokenizers of released models are within these bounds by far.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmclr.errors import UserError
from mmclr.storage.json_file import read_json

LARGEST = 48 << 20  # bytes; the largest of a released model has 33 MiB (Gemma)
FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
         "special_tokens_map.json", "added_tokens.json", "config.json")  # fmt: skip
GROWTH = 16  # times that all replacements together may lengthen a text
TEMPLATE = 16  # pieces around a text
TOKEN = 1024  # letters of an added token, or of a replacement
PATTERN = 2000  # letters of an expression
REPEATS = 16  # quantifiers in one branch of an expression
MAPPED = 256  # bytes that a letter may become in a compiled map
HOLES = 100_000  # ids that stand for no token
WORD = 10_000  # letters of a word that WordPiece takes apart: its time is their square
_ATOM = re.compile(
    r"\\[pP]\{[^}]*\}|\\x\{[^}]*\}|\\.|\[(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]"  # a class or a letter
    r"|\((?:\?(?:[imsx-]*:|[=!>]|<[=!]|<\w+>))?|[)|]|[*+?]|\{\d*,?\d*\}|.",
    re.DOTALL,
)


def check(folder: Path) -> None:
    """Raise UserError where a folder's tokenizer could take more time or memory than its texts are worth."""
    for name in FILES:
        path = folder / name
        if path.exists() and (not path.is_file() or path.stat().st_size > LARGEST):
            raise UserError(f"{path}: more than {LARGEST >> 20} MiB, or no plain file; it is not read")
    if (folder / "tokenizer_config.json").is_file():
        read_json(folder / "tokenizer_config.json")
    path = folder / "tokenizer.json"
    if path.is_file():
        tree = read_json(path, LARGEST)
        if wrong := next(_faults(tree), None):
            raise UserError(f"{path}: {wrong}; it is not run, take the tokenizer of a model that you trust")


def check_backend(name: str, backend: Any) -> None:
    """Raise UserError as `check` does, for a tokenizer that was downloaded."""
    encoder = getattr(backend, "backend_tokenizer", None)
    if encoder is not None and (wrong := next(_faults(json.loads(encoder.to_str())), None)):
        raise UserError(f"{name}: {wrong}; it is not run, take the tokenizer of a model that you trust")


def _faults(tree: dict[str, Any]) -> Iterator[str]:
    growth = 1.0
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        for node in _nodes(tree.get(part)):
            yield from _faults_of(node)
            growth *= _growth(node) if part != "decoder" else 1.0
    if growth > GROWTH:
        yield f"its replacements make a text up to {growth:.3g} times as long"
    model = tree.get("model")
    if not isinstance(model, dict):
        yield "it has no model"
        return
    word = model.get("max_input_chars_per_word", 0)
    if isinstance(word, int) and word > WORD:
        yield f"it takes words of {word} letters apart"
    added = tree.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        yield "its added tokens are no list of tokens"
        return
    yield from (f"a token of {n} letters" for token in added if (n := len(str(token.get("content")))) > TOKEN)
    yield from _odd_ids(model.get("vocab"), [token.get("id") for token in added])


def _odd_ids(vocab: Any, added: list[Any]) -> Iterator[str]:
    """Tell of ids that are no numbers, or leave holes over which the library would count."""
    ids = [*(vocab.values() if isinstance(vocab, dict) else ()), *added]
    most = 2 * (len(vocab) if isinstance(vocab, (dict, list)) else 0) + 2 * len(added) + HOLES
    odd = next((i for i in ids if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < most), None)
    if odd is not None:
        yield f"a token has the id {str(odd)[:50]}, of {len(ids):,} tokens"


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all mappings in a tree."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _faults_of(node: dict[str, Any]) -> Iterator[str]:
    if isinstance(pattern := node.get("Regex"), str) and (why := slow(pattern)):
        yield f"the expression {pattern[:60]!r} {why}"
    for key in ("content", "prepend"):
        if isinstance(node.get(key), str) and len(node[key]) > TOKEN:
            yield f"a replacement of {len(node[key])} letters"
    for key in ("single", "pair", "ids", "tokens"):
        if isinstance(node.get(key), list) and len(node[key]) > TEMPLATE:
            yield f"a template of {len(node[key])} pieces"
    if isinstance(node.get("precompiled_charsmap"), str) and _longest(node["precompiled_charsmap"]) > MAPPED:
        yield "its compiled map makes long texts of single letters"


def _growth(node: dict[str, Any]) -> float:
    """Return how much longer a replacement can make a text."""
    if node.get("type") != "Replace" or not isinstance(node.get("content"), str):
        return 1.0
    pattern = node.get("pattern")
    plain = pattern.get("String") if isinstance(pattern, dict) else None
    length = len(plain) if isinstance(plain, str) else 1
    return max(1.0, (len(node["content"]) + (length == 0)) / max(length, 1))


def _longest(coded: str) -> int:
    """Return the length in bytes of the longest text that a compiled map of sentencepiece has."""
    try:
        data = base64.b64decode(coded)
    except ValueError:
        return 0  # the library refuses it
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max(map(len, texts.split(b"\0")), default=0)


def slow(pattern: str) -> str:
    """Say why a search for an expression could take longer than a small power of the text's length; "" if it cannot.

    A group that is repeated without a bound must neither branch nor repeat inside, and nothing may refer back.
    """
    if len(pattern) > PATTERN:
        return f"has {len(pattern)} letters"
    inside, repeats = [False], 0  # whether the open groups branch or repeat; quantifiers since the last branch
    closed = False  # whether the group that was just closed does
    for atom in _ATOM.findall(pattern):
        quantifier = atom in "*+?" or (atom[0] == "{" and atom[-1] == "}" and len(atom) > 2)
        if re.fullmatch(r"\\[1-9k]", atom):
            return "refers back"
        if quantifier:
            repeats += 1
            if closed and atom != "?":
                return "repeats a group that branches or repeats"
            if max((int(n) for n in re.findall(r"\d+", atom)), default=0) > 1000 or repeats > REPEATS:
                return "repeats too often"
            inside[-1] = inside[-1] or not re.fullmatch(r"\{\d+\}", atom)  # a fixed number of times is one way
            continue
        closed = False
        if atom[0] == "(":
            inside.append(False)
        elif atom == ")" and len(inside) > 1:
            closed = inside.pop()
            inside[-1] = inside[-1] or closed
        elif atom == "|":
            inside[-1], repeats = True, 0
    return ""
