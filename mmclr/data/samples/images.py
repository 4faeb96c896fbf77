"""The members of a sample that are its images, where it may have several: `data.images`.

Either the members themselves, in their order ([jpg, 1.jpg, 2.jpg]), of which a sample need not have all; or a field of
the json with a list of them (json:images), as `mmclr data pack` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from mmclr.data.samples.fields import Field, Members, check_image, kind_of
from mmclr.data.samples.skipped import Fault

S = TypeVar("S")
T = TypeVar("T")
Names = str | Sequence[str]  # "" for the one image that every sample has, whatever its member is called
MOST = 1000  # images of one sample


class Images:
    """Finds the images of samples."""

    def __init__(self, names: Names) -> None:
        """Take members, or one json:field; "" for a sample's one image."""
        given = [names] if isinstance(names, str) else list(names)
        self.field = Field(given[0]) if given and ":" in given[0] else None
        self.named = () if self.field else tuple(name for name in given if name)

    @property
    def several(self) -> bool:
        """Whether samples may have several."""
        return self.field is not None or len(self.named) > 1

    @property
    def beside(self) -> tuple[str, ...]:
        """Members that say which are images."""
        return (self.field.extension,) if self.field else ()

    @property
    def addresses(self) -> list[str]:
        """Return the fields and members, as a config names them."""
        return [self.field.text] if self.field else list(self.named)

    def members(self, seen: Iterable[str], usual: Sequence[str]) -> tuple[str, ...]:
        """Return the members that may be images: of those that are `seen` in shards, by their `usual` extensions."""
        if self.field:
            return (*usual, *sorted({name for name in seen if name.rpartition(".")[2] in usual} - {*usual}))
        return self.named or tuple(usual)

    def of(self, sample: Members, usual: Sequence[str], lost: list[Fault]) -> list[bytes]:
        """Return the bytes of a sample's images, at least one; what it lacks of those that are named is `lost`.

        Where none is named it is the first of the `usual` members that it has. Raises Fault where it has none.
        """
        names = self._listed(sample) if self.field else list(self.named)
        if not names:
            names = [name for name in usual if name in sample.members][:1]
            if not names:
                raise Fault("no_image", f"it has {', '.join(sample.members) or 'nothing'}")
        there = [name for name in names if name in sample.members]
        absent = ", ".join(name[:60] for name in names if name not in sample.members)
        if not there:
            raise Fault("no_image", f"it has none of the images that {self.addresses_told} names: {absent[:200]}")
        if absent:
            lost.append(Fault("missing_image", f"it lacks {absent[:200]}"))
        return usable(there, lambda name: _checked(sample.members[name], name), lost)

    @property
    def addresses_told(self) -> str:
        """Name the setting or the field in a sentence."""
        return self.field.text if self.field else "data.images"

    def _listed(self, sample: Members) -> list[str]:
        """Return the members that the field lists, each once; KEY.1.jpg is the member 1.jpg of the sample KEY."""
        assert self.field
        value = self.field.value(sample)
        if value is None:
            raise Fault("no_image", f"it has no {self.field.text}, which lists its images")
        entries = [value] if isinstance(value, str) else value
        if not isinstance(entries, list):
            raise Fault("bad_field", f"{self.field.text} is {kind_of(value)}, not a list of members")
        if not entries:
            raise Fault("no_image", f"{self.field.text} is an empty list: the sample has no image")
        if len(entries) > MOST:
            raise Fault("bad_field", f"{self.field.text} lists {len(entries):,} images, more than {MOST:,}")
        for entry in entries:
            if not isinstance(entry, str) or not entry:
                raise Fault("bad_field", f"{self.field.text} has an entry that is {kind_of(entry)}, not a member")
        own = f"{getattr(sample, 'key', '')}."
        return list(dict.fromkeys(entry.removeprefix(own) for entry in entries))


def usable(images: Sequence[S], make: Callable[[S], T], lost: list[Fault]) -> list[T]:
    """Return what `make` makes of each image; a Fault of one is `lost` while there are others, and raised else."""
    found, bad = [], []
    for image in images:
        try:
            found.append(make(image))
        except Fault as fault:
            bad.append(fault)
    if bad and not found:
        raise bad[0]
    lost += [Fault("lost_image", fault.detail) for fault in bad]
    return found


def wrong_images(names: Names, most: int) -> str:
    """Return what is wrong with data.images, "" for nothing; `most` is data.images_at_most."""
    given = [names] if isinstance(names, str) else list(names)
    if not given:
        return "images: [] names no member; leave it out for the one image of a sample, or name members, or json:FIELD"
    if most < 0:
        return f"images_at_most must be at least 0, not {most}"
    if given == [""]:
        return "images_at_most: a sample has one image; say which are its images with images" if most else ""
    if not all(given) or len(set(given)) < len(given):
        return f"images names members, each once, such as [jpg, 1.jpg, 2.jpg]: {given}"
    fields = [name for name in given if ":" in name]
    if fields and len(given) > 1:
        return f"images: {fields[0]} is a list of members already; write it alone, or members alone"
    if fields and not Field(fields[0]).path:
        return f"images: {fields[0]} names no field; write json:FIELD"
    if fields and not most:
        return f"images: {fields[0]} may list any number; say how many of them a step sees with images_at_most"
    return ""


def _checked(data: bytes, name: str) -> bytes:
    check_image(len(data), name)
    return data
