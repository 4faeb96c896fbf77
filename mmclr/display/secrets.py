"""Take secrets out of what is said or written: signed addresses, user:password@, headers, tokens, shell commands.

Scheme, host and path of an address stay, so that people know which is meant; `…` stands for what was left out. What
was redacted once does not change again. Paths, globs and braces without an address stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

GONE = "…"  # stands for what was left out
START = re.compile(r"(?<=[A-Za-z0-9])://|(?<![\w.])pipe:(?=[^\s'\"`])", re.I)
NEXT = re.compile(r"::(?=[A-Za-z][\w+.-]*:|[./~])|,(?=[A-Za-z][\w+.-]{0,20}://|pipe:)")  # where another begins
CLOSING = re.compile(r"[\])},.;:!'\"`]*$")  # what prose puts behind an address
SCHEME = re.compile(r"[A-Za-z0-9+.-]{1,20}$")
PLACE = re.compile(r"(\[[^\]]*\]|[^:]*)(:[\d{},.]*)?$")  # host:8080, [::1]:8080
CONTAINERS = ("abfs", "abfss", "wasb", "wasbs")  # container@account is a place there, and no secret
WEB = ("http", "https", "ftp", "ftps", "webdav", "webdavs")
KEY_OF_A_STORE = r"\?(?![^?=&]*\.(?:tar|tgz|zip|csv|tsv|jsonl?|parquet|arrow)\b)"  # bucket/shard-?.tar is a glob
SAID = re.compile(rf"pipe:\S* ?{GONE}", re.I)  # a command that was redacted before
WORD = re.compile(r"[\w.+-]+")
SHARD = re.compile(r"(?<![^\s'\"=])(?!-)[^\s?#=&;|'\"]*\.(?:tar|tgz|zip)(?:\.\w+)?(?![^\s?#;|'\"])")

NAME = (
    r"(?:token|secret|password|passwd|passphrase|pwd|signature|credentials?|api[_-]?key|access[_-]?key(?:[_-]?id)?|"
    r"account[_-]?key|private[_-]?key|authorization|bearer|cookie|connection[_-]?string)"
)
QUOTE = r"\\*(?:''|[\"'])"  # as it is, with a backslash (JSON in JSON), doubled (YAML)
KEY = re.compile(
    rf"(?:^|[_.-])(?:{NAME}|secrets|passwords)$|^(?:auth|sas|headers?|storage_options|client_kwargs)$", re.I
)
PATTERNS = [
    (re.compile(pattern, flags), put)
    for pattern, flags, put in (
        # 'Authorization': 'Basic ...', as dictionaries are printed
        (rf"({NAME}{QUOTE}\s?:\s?b?)({QUOTE}).*?\2", re.I, rf"\1\2{GONE}\2"),
        (rf"(authorization{QUOTE}\s?,\s?b?)({QUOTE}).*?\2", re.I, rf"\1\2{GONE}\2"),
        # Authorization: Bearer ..., as headers are written; X-Api-Key: ...
        (r"\b((?:authorization|cookie)\s?[:=]\s?)[^\n'\"`]+", re.I, rf"\1{GONE}"),
        (rf"\b(x-[\w-]{{0,40}}{NAME}\s?:\s?)[^\s'\"`]+", re.I, rf"\1{GONE}"),
        (r"\b(Bearer\s)[\w.~+/=-]+", 0, rf"\1{GONE}"),
        # AWS_SECRET_ACCESS_KEY=..., token="..."
        (rf"""((?:\bsig|{NAME})=)(["']).*?\2""", re.I, rf"\1\2{GONE}\2"),
        (rf"((?:\bsig|{NAME})=)[^\s&'\"`]+?(?=[\])}},.;:!]*(?:[\s&'\"`]|$))", re.I, rf"\1{GONE}"),
        # tokens that are known by their form: Hugging Face, AWS, GitHub, Google, JSON web tokens
        (r"\bhf_[A-Za-z0-9]{16,}", 0, f"hf_{GONE}"),
        (r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", 0, GONE),
        (r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AIza[\w-]{35}|ya29\.[\w-]{20,})", 0, GONE),
        (r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*", 0, GONE),
    )
]


def redact(text: str) -> str:
    """Return prose without the secrets of the addresses, commands, headers and tokens in it."""
    return _redact(text, whole=False)


def address(url: str) -> str:
    """Return an address as it may be shown: all of `url` is one, or several with braces and `::`."""
    return _redact(url, whole=True)


def redact_tree(tree: Any) -> Any:
    """Return a tree of a config or of JSON with its texts redacted, and with what keys like `token` hold left out."""
    if isinstance(tree, Mapping):
        out: dict[Any, Any] = {}
        for key, value in tree.items():
            name = _text(key) if isinstance(key, str) else key
            while name in out:  # two addresses that differed in their secrets alone
                name = f"{name} "
            out[name] = _hidden(value) if isinstance(key, str) and KEY.search(key) else redact_tree(value)
        return out
    if isinstance(tree, (list, tuple)):
        return [redact_tree(value) for value in tree]
    return _text(tree) if isinstance(tree, str) else tree


def is_redacted(url: str) -> bool:
    """Whether an address has lost its secret, so that it has to be given anew before anything can be read there."""
    return f"://{GONE}@" in url or url.endswith((f"?{GONE}", f"#{GONE}")) or bool(SAID.match(url))


def _text(value: str) -> str:
    """Redact a value: an address where it begins as one, else prose."""
    begins = value.startswith("pipe:") or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value)
    return address(value) if begins else redact(value)


def _hidden(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _hidden(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hidden(inner) for inner in value]
    return value if value is None or isinstance(value, bool) or value == "" else GONE


def _redact(text: str, whole: bool) -> str:
    parts, at = [], 0
    while found := START.search(text, at):
        command = found[0] != "://"
        if command and (said := SAID.match(text, found.start())):
            end, shown = said.end(), said[0]
        elif command:
            end = len(text) if whole else _command_end(text, found.end())
            shown = _command(text[found.end() : end])
        else:
            end = _address_end(text, found.end(), whole)
            scheme = SCHEME.search(text, max(0, found.start() - 20), found.start())
            shown = "://" + _behind(scheme[0].lower() if scheme else "", text[found.end() : end], whole)
        parts += [text[at : found.start()], shown]
        at = end
    out = "".join([*parts, text[at:]])
    for pattern, put in PATTERNS:
        out = pattern.sub(put, out)
    return out


def _open_quotes(text: str, at: int) -> str:
    """Return the kinds of quotes that are open at a place in its line."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return "".join(quote for quote in "'\"`" if line.count(quote) % 2)


def _address_end(text: str, begin: int, whole: bool) -> int:
    ends = len(text)
    if not whole:
        stop = re.compile(rf"[\s{_open_quotes(text, begin)}]").search(text, begin)
        ends = stop.start() if stop else ends
    another = NEXT.search(text, begin, ends)
    return another.start() if another else ends


def _command_end(text: str, begin: int) -> int:
    """Return where a command ends in prose: at the last quote of its line like one that is open, or with the line."""
    line = re.compile(r"(?<!\\)\n").search(text, begin)
    end = line.start() if line else len(text)
    last = max((text.rfind(quote, begin, end) for quote in _open_quotes(text, begin)), default=-1)
    return last if last >= 0 else end


def _command(text: str) -> str:
    """Return what may be shown of a shell command: its program, and the last word that names a shard."""
    first = next((word for word in text.split() if "=" not in word), "")
    program = WORD.fullmatch(first.rsplit("/", 1)[-1])
    words = SHARD.findall(_redact(text.replace("pipe:", ""), whole=False))
    shards = [word for word in words if not set("@:") & set(word.replace("://", ""))]
    return f"pipe:{program[0] if program else ''}{' ' * bool(program)}{GONE}" + "".join(f" {s}" for s in shards[-1:])


def _behind(scheme: str, rest: str, whole: bool) -> str:
    """Return what follows `scheme://` without user, password, query and fragment."""
    if scheme.endswith("file"):
        return rest
    authority = re.match(r"[^/?#]*", rest)[0]  # type: ignore[index]
    user, at, host = authority.rpartition("@")
    odd = not host or not PLACE.match(host) or rest[len(authority) : len(authority) + 1] in ("?", "#")
    if odd and "@" in rest[len(authority) :]:
        return f"{GONE}@{GONE}"  # a password with /, ? or # in it: where the host begins cannot be told
    keeps = scheme in CONTAINERS and ":" not in user
    out = rest if not at or keeps else f"{GONE}@{rest[len(user) + 1 :]}"
    cut = re.search(r"[?#]" if scheme in WEB else KEY_OF_A_STORE, out)
    if cut is None:
        return out
    closing = "" if whole else CLOSING.search(out, cut.start())[0]  # type: ignore[index]
    return f"{out[: cut.start()]}{out[cut.start()]}{GONE}{closing}"
