"""Pack about 14,000 named icons, the demo's images, into shards.

They are those of the fonts in the qtawesome wheel: real pairs on any machine. Several families are for training;
Remix, a drawing style that training never sees, is for evaluation. The fonts are read as files: qtawesome itself is
never imported, because it wants Qt.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
import json
import random
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL
from PIL import Image, ImageDraw, ImageFont

from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.storage import written

SHARD_PAIRS = 1000  # samples per shard, about
SEED = 0  # of the order that mixes the families over the shards
STAMP = "packed.json"  # written last: its presence says that the shards are whole
KIND = "packed icons"  # in manifests
FORMAT = 2  # raise it when the same settings give other bytes


@dataclass(frozen=True)
class Family:
    """One icon font: the start of its file names, and the last words of a name that only say how it is drawn."""

    key: str
    file: str
    split: str
    style_words: frozenset[str] = frozenset()
    strokes: Mapping[str, int] = field(default_factory=dict, hash=False)  # last word of a name -> weight of its lines


STROKES = {"thin": 100, "light": 300, "": 400, "bold": 700}  # of phosphor; "fill" has no lines
FAMILIES = (
    Family("mdi", "materialdesignicons6-webfont", "train", frozenset({"outline", "variant"})),
    Family("phosphor", "phosphor", "train", frozenset({"bold", "fill", "light", "thin"}), STROKES),
    Family("fa-solid", "fontawesome6-solid-webfont", "train", frozenset({"alt"})),
    Family("fa-regular", "fontawesome6-regular-webfont", "train", frozenset({"alt"})),
    Family("fa-brands", "fontawesome6-brands-webfont", "train", frozenset({"alt"})),
    Family("codicon", "codicon", "train", frozenset({"filled", "outline"})),
    Family("elusive", "elusiveicons-webfont", "train", frozenset({"alt"})),
    Family("remix", "remixicon", "test", frozenset({"fill", "line"})),
)
ANY_STYLE = frozenset().union(*(family.style_words for family in FAMILIES))
NOT_STYLE = {"traffic-light"}  # names that end in a style word of their family and mean it


@dataclass(frozen=True)
class Icon:
    """One drawing: its name in the font, its code point, its family."""

    name: str
    code: int
    family: Family

    @property
    def key(self) -> str:
        return f"{self.family.key}-{self.name}"

    def fields(self) -> dict[str, Any]:
        """Return what the sample's json holds: `plain` says what is drawn, `full` also how.

        Where the family draws every icon in several weights, `stroke` is the weight of its lines, as of a font's face.
        """
        plain = plain_name(self.name, self.family.style_words)
        told = {"name": self.name, "plain": plain, "full": self.name.replace("-", " "), "family": self.family.key}
        last = self.name.rsplit("-", 1)[-1]
        stroke = self.family.strokes.get(last if last in self.family.style_words else "")
        return {**told, **({"stroke": stroke} if stroke else {})}


def plain_name(name: str, style_words: frozenset[str] = ANY_STYLE) -> str:
    """Return `name` as words without its last style words and numbers: "home-2-fill" -> "home"."""
    words = name.split("-")
    while len(words) > 1 and "-".join(words) not in NOT_STYLE and (words[-1] in style_words or words[-1].isdigit()):
        words.pop()
    return " ".join(words)


def pack(folder: str | Path, size: int = 32) -> dict[str, Any]:
    """Write train-*.tar and test-*.tar of `size` x `size` px icons into `folder`; return what was written.

    The summary (kept in the folder as packed.json) has, for "train" and "test": pairs, names (different plain
    ones), families (pairs of each), url (brace pattern within the folder); and "blank": keys left out because
    nothing is drawn. A folder that already holds the shards of the same settings is left as it is. The same
    fonts and Pillow give the same bytes. Raises UserError when qtawesome is not installed, or when the folder
    holds shards of somebody else.
    """
    if size < 8:
        raise UserError(f"icons of {size} px show nothing: ask for a size of at least 8")
    folder, fonts = Path(folder), _fonts()
    settings = {"format": FORMAT, "size": size, "qtawesome": _version("qtawesome"), "pillow": PIL.__version__}
    summary = _packed(folder, settings)
    return summary or _write(folder, fonts, size, settings)


def _write(folder: Path, fonts: Path, size: int, settings: dict[str, Any]) -> dict[str, Any]:
    old = _own_shards(folder)
    splits, blank = {}, []
    for split in ("train", "test"):
        samples = [sample for family in FAMILIES if family.split == split for sample in _draw(fonts, family, size)]
        blank += [icon.key for icon, png in samples if not png]
        splits[split] = [(icon, png) for icon, png in samples if png]
        random.Random(SEED).shuffle(splits[split])
    shards = {f"{split}-{i:05d}.tar": part for split, drawn in splits.items() for i, part in enumerate(_parts(drawn))}
    names = [*(path.name for path in old), *shards]
    for name in names:
        written.check(folder / name, KIND)
    claimed = {"settings": settings, "shards": dict.fromkeys(names)}  # without sizes: not whole yet
    written.write(folder / STAMP, json.dumps(claimed, indent=1), KIND, _is_stamp)
    for path in old:
        written.remove(path, KIND)  # a larger earlier packing must not leave shards that a pattern would pick up
    for name, part in shards.items():
        written.write(folder / name, _tar(part), KIND)
    counts = {split: _count(split, [icon for icon, _ in drawn]) for split, drawn in splits.items()}
    sizes = {name: (folder / name).stat().st_size for name in shards}
    summary = {"settings": settings, **counts, "blank": blank, "shards": sizes}
    written.write(folder / STAMP, json.dumps(summary, indent=1), KIND)
    return summary


def _parts(samples: list[Any]) -> list[list[Any]]:
    """Deal samples into parts of about SHARD_PAIRS."""
    count = max(1, round(len(samples) / SHARD_PAIRS))
    return [samples[i::count] for i in range(count)]


def _own_shards(folder: Path) -> list[Path]:
    """Return the shards of an earlier packing; refuse a folder with those of somebody else."""
    written.make_folder(folder)
    written.check(folder / STAMP, KIND, _is_stamp)
    there = sorted([*folder.glob("train-*.tar"), *folder.glob("test-*.tar")])
    for path in there:
        if path.name not in _stamp(folder).get("shards", ()):
            raise UserError(
                f"{path} was not written by this command, and a pattern would mix both: name another folder"
            )
    return there


def _stamp(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return {}


def _is_stamp(start: bytes) -> bool:
    """Whether packed.json is one that this wrote, before there were manifests."""
    return start.startswith(b'{\n "settings": {\n  "format"')


def _packed(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the summary of an earlier packing with these settings whose shards are all there."""
    summary = _stamp(folder)
    paths = {folder / name: size for name, size in summary.get("shards", {}).items()}
    whole = all(path.is_file() and path.stat().st_size == size for path, size in paths.items())
    return summary if summary.get("settings") == settings and whole else None


def _count(split: str, icons: list[Icon]) -> dict[str, Any]:
    return {
        "pairs": len(icons),
        "names": len({icon.fields()["plain"] for icon in icons}),
        "families": dict(sorted(Counter(icon.family.key for icon in icons).items())),
        "url": f"{split}-{{00000..{len(_parts(icons)) - 1:05d}}}.tar",
    }


def _fonts() -> Path:
    """Return the folder of the fonts without executing the package that holds them."""
    spec = importlib.util.find_spec("qtawesome")
    if spec is None or not spec.origin:
        raise UserError("the icons come from the fonts in the qtawesome package: pip install 'mmclr[demo]'")
    return Path(spec.origin).parent / "fonts"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _draw(fonts: Path, family: Family, size: int) -> Iterator[tuple[Icon, bytes | None]]:
    """Yield each icon of a family in the font's order, with its PNG, or None where nothing is drawn."""
    ttf, table = _only(fonts, f"{family.file}-*.ttf"), _only(fonts, f"{family.file}-*.json")
    font = ImageFont.truetype(str(ttf), 4 * size, layout_engine=ImageFont.Layout.BASIC)
    missing = _mask(font, "\U0010fffe")  # what the font draws for a code point that it does not have
    for name, code in json.loads(table.read_text()).items():
        icon = Icon(name, int(code, 16), family)
        mask = _mask(font, chr(icon.code))
        blank = mask is None or (missing is not None and mask.tobytes() == missing.tobytes())
        yield icon, None if mask is None or blank else _png(mask, size)


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise UserError(
            f"{folder} has {len(found)} files {pattern}, not one: pip install --force-reinstall 'mmclr[demo]'"
        )
    return found[0]


def _mask(font: ImageFont.FreeTypeFont, char: str) -> Image.Image | None:
    """Return the ink of a glyph (mode L, cropped to it), or None where there is none."""
    canvas = Image.new("L", (int(2 * font.size),) * 2)
    ImageDraw.Draw(canvas).text((font.size, font.size), char, fill=255, font=font, anchor="mm")
    box = canvas.getbbox()
    return canvas.crop(box) if box else None


def _png(mask: Image.Image, size: int) -> bytes:
    """Return a glyph drawn at 4 * size px per em as a size x size PNG: black on white, centred, averaged down."""
    inner = size - 2 * max(1, size // 16)
    # Most glyphs fill the box; one that is small in its em square (a dot) stays small beside the others.
    scale = inner / max(*mask.size, 0.8 * 4 * size)
    ink = mask.resize([max(1, round(side * scale)) for side in mask.size], Image.Resampling.BOX)
    image = Image.new("L", (size, size), 255)
    image.paste(0, ((size - ink.width) // 2, (size - ink.height) // 2), ink)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _tar(samples: list[tuple[Icon, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for icon, png in samples:
            fields = icon.fields()
            for suffix, data in (
                ("png", png),
                ("txt", fields["plain"].encode()),
                ("json", json.dumps(fields).encode()),
            ):
                member = tarfile.TarInfo(f"{icon.key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def main(argv: list[str]) -> None:
    """Run `mmclr data icons`."""
    parser = argparse.ArgumentParser(
        description="Pack about 14,000 named icons into webdataset shards, train-*.tar and test-*.tar. The test "
        "shards hold the Remix family, a drawing style that the train shards do not show. Each sample has KEY.png "
        "(black on white), KEY.txt (the plain name) and KEY.json (name, plain, full: with style words, family). "
        "Needs no network: the fonts come from pip install 'mmclr[demo]'.",
        epilog="example: mmclr data icons runs/icons --size 32",
    )
    parser.add_argument("folder", help="where to write the shards")
    parser.add_argument("--size", type=int, default=32, help="width and height in pixels (default %(default)s)")
    args = parser.parse_args(argv)
    summary = pack(args.folder, args.size)
    for split in ("train", "test"):
        count = sum(name.startswith(split) for name in summary["shards"])
        say(f"{split}: {summary[split]['pairs']:,} icons, {summary[split]['names']:,} different names, {count} shards")
    say(f"left out, nothing drawn: {len(summary['blank'])} ({', '.join(summary['blank'])})")
