"""Addresses of shards: what a pattern names, which places may be read, and who a shard is whatever signs its address.

Which protocols are read is decided here and nowhere else. `pipe:` runs a command and needs data.allow_pipe; of what
fsspec knows, only stores of objects are opened: others run programs, log in with the user's keys, or lead to places
that the address does not show (ssh, git, zip, reference, simplecache ...).
"""

from __future__ import annotations

import difflib
import functools
import glob
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]
from webdataset.shardlists import envsubst

from mmclr.display.secrets import is_redacted
from mmclr.errors import UserError

STORES = frozenset(
    ["http", "https", "s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "adl", "oci", "oss", "hdfs", "webhdfs",
     "memory"]
)  # fmt: skip
CHAINS = frozenset(["simplecache", "filecache", "blockcache", "cached", "zip", "tar", "dir", "reference"])
MOST = 2_000_000  # shards of one pattern
# what lies beside shards and is none: our own files, and tables or notes that other tools write
NO_SHARDS = (".index", ".tmp", ".lock", ".npy", ".arrow", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt", ".md",
             ".yaml", ".html", ".log")  # fmt: skip
SIGNED = frozenset(
    ["signature", "expires", "key-pair-id", "policy", "awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "sig",
     "security-token", "token", "access_token", "auth", "auth_key", "sign", "hdnea", "hdnts", "hdntl"]
)  # fmt: skip
SIGNED_BEGINNINGS = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "x-bce-", "q-")
AZURE = frozenset(  # beside a "sig"
    ["se", "sp", "sv", "sr", "st", "spr", "sip", "ske", "skoid", "sks", "skt", "sktid", "skv", "ss", "srt", "si", "sdd"]
)

Listing = Callable[[str], list[str]]


class Command(str):
    """The `pipe:` address of a command that the user allowed to run; a plain string never runs."""


def scheme(url: str) -> str:
    """Return the protocol of an address in lower case, "" for a path."""
    found = re.match(r"\s*([A-Za-z][A-Za-z0-9+.\-]+):(//)?", url)
    if not found or not (found[2] or found[1].lower() in ("pipe", "file", "local")):
        return ""
    return found[1].lower()


def is_stream(url: str) -> bool:
    """Whether `url` can only be read from its start to its end: a command."""
    return scheme(url) == "pipe"


def is_remote(url: str) -> bool:
    """Whether `url` has a scheme other than those of local files."""
    return scheme(url) not in ("", "file", "local", "pipe")


def local(url: str) -> str:
    """Return the path of a local shard."""
    if scheme(url) not in ("file", "local"):
        return url
    path = url.split(":", 1)[1]
    if path.startswith("//"):
        path = path[2:].removeprefix("localhost")
    return path if "%" not in path or os.path.exists(path) else unquote(path)


@functools.lru_cache(1 << 16)
def identity(url: str) -> str:
    """Return an address without what changes with each signing, and without user and password."""
    if scheme(url) not in ("http", "https"):
        return url
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    azure = AZURE if any(name.lower() == "sig" for name, _ in query) else frozenset()
    kept = [(name, value) for name, value in query if not _signs(name.lower(), azure)]
    text = parts.query if len(kept) == len(query) else urlencode(kept)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{'?' if text else ''}{text}"


def base(url: str) -> str:
    """Return the name of a shard without its folder."""
    return identity(url).split("?")[0].rsplit("/", 1)[-1] if is_remote(url) else os.path.basename(local(url))


def allowed(url: str) -> str:
    """Return a remote address that may be opened, its scheme in lower case. Raises UserError for any other."""
    name = scheme(url)
    if "::" in url:
        raise UserError(f"{identity(url)}: chained addresses (simplecache::...) are not read; name the store itself")
    if name not in STORES:
        raise UserError(
            f"{url}: shards are not read from {name}://; copy them to a disk, or to one of {', '.join(sorted(STORES))}"
        )
    return name + url.strip()[len(name) :]


def expand(urls: str | Sequence[str], allow_pipe: bool, listing: Listing) -> list[str]:
    """Return the shards that brace URLs, globs, '::'-joined lists or lists of these name, in their order.

    A path that exists is taken as it stands, whatever letters it has. `listing` lists a remote glob.
    """
    parts = [urls] if isinstance(urls, str) else list(urls)
    shards = [shard for part in parts for shard in _part(str(part), allow_pipe, listing)]
    if not shards:
        raise UserError(f"{urls!r} names no shard")
    return shards


def _part(part: str, allow_pipe: bool, listing: Listing) -> Iterator[str]:
    if is_stream(part):
        pieces = [part]
    elif _exists(part):
        yield _path(part)
        return
    else:
        pieces = [piece for piece in part.split("::") if piece.strip()]
        if len(pieces) > 1 and pieces[0].strip().lower() in CHAINS:
            raise UserError(f"{part}: chained addresses ({pieces[0]}::...) are not read; name the store itself")
    for piece in pieces:
        yield from _piece(piece, allow_pipe, listing)


def _piece(piece: str, allow_pipe: bool, listing: Listing) -> Iterator[str]:
    if is_redacted(piece):
        raise UserError(f"{piece}: this address was stored without its secret; give it anew, as it was given first")
    prefix, rest = ("", piece) if scheme(piece) else _existing(os.path.expanduser(piece))
    for ending in _braces(rest):
        url = prefix + ending
        if not url.strip():
            continue
        if is_stream(url):
            if not allow_pipe:
                raise UserError(f"{piece!r} runs a shell command; write data.allow_pipe=true when you trust it")
            yield Command("pipe:" + url.strip()[5:])
        elif is_remote(url):
            url = allowed(url)
            yield from _shards(url, listing(url)) if "*" in url.split("?")[0] else [url]
        elif scheme(url):  # file: or local:
            yield from _match(*_existing(local(url)))
        else:
            yield from _match(prefix, ending)


def _match(prefix: str, ending: str) -> Iterable[str]:
    """Return the local paths that `prefix` (taken as it stands) and `ending` (a pattern) name."""
    path = prefix + ending
    if _exists(path) or not glob.has_magic(ending):
        return [_path(path)]
    return [_path(found) for found in _shards(path, glob.glob(glob.escape(prefix) + ending, recursive=True))]


def _shards(pattern: str, found: list[str]) -> list[str]:
    """Return what a pattern found, without folders and without files that are known to be no shards."""
    shards = [path for path in sorted(found) if not path.lower().endswith(NO_SHARDS)]
    shards = [path for path in shards if is_remote(path) or not os.path.isdir(path)]
    if not shards:
        others = f" ({len(found)} of other kinds: {os.path.basename(found[0])[:60]}, ...)" if found else ""
        todo = (
            "; mmclr data pack writes shards from tables and folders" if found else "; check its folder and its braces"
        )
        if scheme(pattern) in ("http", "https"):
            todo = "; web servers seldom list their files: name the shards with braces, {00000..00099}.tar"
        raise UserError(f"{identity(pattern)}: no shard matches this pattern{others}{todo}")
    return shards


def _existing(path: str) -> tuple[str, str]:
    """Split a path behind the longest of its folders that exists as it is written."""
    end = len(path)
    while (end := path.rfind("/", 0, end)) > 0:
        if os.path.isdir(path[:end]):
            return path[: end + 1], path[end + 1 :]
    return "", path


def _braces(text: str) -> list[str]:
    try:
        text = envsubst(text)  # ${NAME}: the variable WDS_NAME
    except (AssertionError, KeyError):
        raise UserError(f"{text[:200]}: ${{NAME}} stands for the environment variable WDS_NAME, not set") from None
    spans = [abs(int(b) - int(a)) + 1 for a, b in re.findall(r"\{(-?\d{1,18})\.\.(-?\d{1,18})", text)]
    if re.search(r"\{-?\d*\.\.-?\d{19}|\{-?\d{19}", text) or math.prod(spans or [1]) > MOST:
        raise UserError(f"{text[:200]}: more than {MOST:,} shards; check the numbers in its braces")
    try:
        found = list(islice(braceexpand(text), MOST + 1))
    except UnbalancedBracesError:
        raise UserError(f"{text[:200]}: its braces do not close, and there is no file of this name") from None
    if len(found) > MOST:
        raise UserError(f"{text[:200]}: more than {MOST:,} shards; check its braces")
    return found


def beside(path: str) -> str:
    """Return the shard whose name is nearest to that of a file that is not there, "" where none is near."""
    folder, name = os.path.split(path)
    try:
        names = [entry.name for entry in islice(os.scandir(folder or "."), 10_000) if entry.name.endswith(".tar")]
    except (OSError, ValueError):
        return ""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return os.path.join(folder, close[0]) if close else ""


def _exists(path: str) -> bool:
    try:
        return not scheme(path) and os.path.exists(path)
    except (OSError, ValueError):  # a null byte, a name that is too long
        return False


def _path(path: str) -> str:
    return f"./{path}" if scheme(path) else path  # a file whose name looks like an address


def _signs(name: str, azure: frozenset[str]) -> bool:
    return name in SIGNED or name in azure or name.startswith(SIGNED_BEGINNINGS)
