"""The `data:` part of a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import field
from typing import Any, Literal

from mmclr.batch_fields import FIELDS, KINDS, SETS, fault
from mmclr.config import ConfigError, config, nearest
from mmclr.data.pixels.array_augment import ArrayAugment
from mmclr.data.pixels.augment import Augment
from mmclr.data.pixels.copies.frequency import Blurred, Degrade, Sharpened
from mmclr.data.pixels.copies.turned import TURNS, Turned
from mmclr.data.pixels.intensity import Intensity
from mmclr.data.samples.captions import TextEdits
from mmclr.data.samples.images import wrong_images
from mmclr.data.stream.batch import Maker
from mmclr.data.stream.order import Order, build
from mmclr.vocabulary import FEATURES


@config
class Source:
    """One part of a mixture."""

    urls: str | list[str]  # brace URLs, globs, '::'-joined lists
    weight: float = 1.0  # share of the samples, relative to the other sources

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight must be above 0, not {self.weight}")


@config
class Given:
    """The place that the values of a batch field come from."""

    values: str  # "cls", "json:field", "column:NAME", or "source"
    most: int = 0  # entries of a sample that are kept, of tags and boxes; 0 for 32 tags, 16 boxes

    def __post_init__(self) -> None:
        if self.most < 0:
            raise ValueError(f"most must be at least 1, not {self.most}")


VIEWS = Augment(
    crop_scale=(0.08, 1.0),
    flip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    colour=0.8,
    grey=0.2,
    blur=0.5,
)


@config
class Views:
    """A family of further views of each image."""

    count: int = 1  # views of each image
    augment: Augment = VIEWS  # how they are changed

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, not {self.count}")


@config
class DataConfig:
    """The pairs that are trained on, the way they are read, and their changes."""

    train: str | list[str] | dict[str, Source]  # shards: "data/{00000..00099}.tar", a glob, or a mixture by name
    caption: str | dict[str, float] = "txt"  # "txt", "json:title", or several with their probabilities
    images: str | list[str] = ""  # several of a sample: its members, [jpg, 1.jpg, 2.jpg], or json:FIELD with a list
    images_at_most: int = 0  # that a step sees of them, drawn anew each epoch; 0: all that `images` names
    fields: dict[str, str | Given] = field(default_factory=dict)  # field: "cls", "json:x", "column:NAME", "source"
    label: str = ""  # short for fields.label: integers, or words that are hashed; "" for none
    weight: str = ""  # short for fields.weights, in every mean; "" for 1; one of weight 0 is still a negative
    clusters: str = ""  # NAME or FOLDER/NAME, short for fields.clusters=column:NAME; `mmclr data cluster` writes it
    order: str | dict[str, Any] = "shuffled"  # which sample comes when: NAME, or {use: NAME, its settings}
    pure: tuple[str, ...] = ()  # short for order: {use: cluster_batches, labels: ...}
    subset: str = ""  # DataComp subset file (.npy of 128-bit uids): only these samples
    batch: int = 256  # pairs in a global batch, all ranks together
    workers: int = 2  # processes per rank that decode; 0 = a thread of this one
    augment: Augment = Augment()
    views: int = 0  # further views of each image, for self-supervised parts
    view_augment: Augment = VIEWS
    view_augments: dict[str, Views] = field(default_factory=dict)  # more families: strong_views, local_views
    companion: str = ""  # member with another image of each sample, like ref.jpg; cut as the image is
    generated: str = ""  # member with an image that a generator made of the sample's, like gen.jpg; cut as the image is
    array_augment: ArrayAugment = ArrayAugment()  # of arrays (model.image.array), which have no other
    array_view_augment: ArrayAugment = ArrayAugment(crop=(0.5, 1.0), jitter=0.1, scale=0.2, mask=0.2)
    degrade: Degrade = Degrade()  # sharpened and blurred copies of each image
    turned: Literal["none", "rotation", "jigsaw"] = "none"  # a copy of each image, turned by quarters or in tiles
    split: Literal["none", "lines", "sentences"] = "none"  # a caption is one of its lines or sentences
    edits: TextEdits = TextEdits()
    texts: int = 1  # captions of each image in a batch, different ones as long as a sample has them
    text_views: int = 0  # further, edited forms of each (first) caption, for self-supervised parts
    text_sources: tuple[str, ...] = ()  # fields with captions of different origin: [txt, json:alt, json:ocr]
    view_edits: TextEdits = TextEdits(probability=1.0, stop_words=0.8)
    faults: Literal["skip", "substitute", "raise"] = "substitute"  # a bad sample: a blank row, another, or an error
    max_faults: float = 0.01  # share of bad samples above which the run ends
    block: int = 1  # neighbours that stay together; 1 = every sample anywhere, 64 to 512 for slow storage
    window: int = 16  # blocks that are mixed with each other, when block > 1
    tail: Literal["carry", "pad"] = "carry"  # end of an epoch: goes on into the next, or is padded with blank rows
    bucket: bool = False  # sort this rank's rows by length, so that micro-batches are padded less
    decoder: Literal["pillow", "turbo"] = "pillow"  # turbo = libjpeg-turbo through simplejpeg; other last bits
    resample: Literal["bicubic", "bilinear", "hamming", "box", "lanczos"] = "bicubic"
    background: tuple[int, ...] = (255, 255, 255)  # shows through transparent pixels and beyond the border
    intensity: Intensity | None = None  # how numbers of deep images become [0, 1]; none: by the range of 8 or 16 bits
    max_pixels: int = 64_000_000  # of an image; larger ones are bad samples, found before they are decoded
    max_characters: int = 10_000  # of a caption; the rest is cut (and counted)
    cache: Literal["none", "decoded"] = "none"  # decoded = images and token ids stay in memory once decoded
    cache_bytes: int = 4_000_000_000  # at most this much for each rank, divided among its workers
    allow_pipe: bool = False  # pipe: URLs run shell commands; what they give is copied into the cache folder once
    patience: float = 600.0  # seconds after which a silent worker counts as hung

    def __post_init__(self) -> None:
        for name in ("batch", "texts", "block", "window", "max_pixels", "max_characters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("workers", "views", "text_views"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not self.train:
            raise ValueError("train names no shards")
        if self.tail == "pad" and len(self.sources()) > 1:
            raise ValueError("tail: pad needs one source: the sources of a mixture end their epochs at different times")
        if wrong := wrong_images(self.images, self.images_at_most):
            raise ValueError(wrong)
        if not all(self.text_sources) or len({*self.text_sources}) < len(self.text_sources):
            raise ValueError(f"text_sources are different fields, [txt, json:alt], not {list(self.text_sources)}")
        self._check_order()
        self._check_fields()
        self._check_sets()
        if not self.captions() or min(self.captions().values()) <= 0 or not all(self.captions()):
            raise ValueError("caption needs a field, and probabilities above 0 when there are several")
        if not self.background or not all(0 <= part <= 255 for part in self.background):
            raise ValueError(
                f"background is red, green, blue, or a number for each band, 0 to 255 each, not {list(self.background)}"
            )

    def sources(self) -> dict[str, Source]:
        """Return the sources by name, one that is called "train" when there is no mixture."""
        return self.train if isinstance(self.train, dict) else {"train": Source(urls=self.train)}

    def captions(self) -> dict[str, float]:
        """Return the caption fields with their probabilities."""
        return {self.caption: 1.0} if isinstance(self.caption, str) else self.caption

    def image_slots(self) -> int:
        """Return K, how many images of a sample a step sees at most."""
        named = 1 if isinstance(self.images, str) else len(self.images)
        listed = isinstance(self.images, str) and ":" in self.images
        return self.images_at_most if listed else min(self.images_at_most or named, named)

    def given(self) -> dict[str, Given]:
        """Return where each batch field comes from that the config names, short forms with them."""
        own = {name: one if isinstance(one, Given) else Given(values=one) for name, one in self.fields.items()}
        short = {name: getattr(self, row.short) for name, row in FIELDS.items() if row.short}
        places = {name: "column:" if FIELDS[name].kind == "clusters" else "" for name in short}
        return own | {name: Given(values=places[name] + text) for name, text in short.items() if text}

    def augments(self) -> list[Augment]:
        """Return how images are changed, and then each of their views, family by family."""
        families = [[one.augment] * one.count for _, one in self._families()]
        return [self.augment] + [self.view_augment] * self.views + [how for family in families for how in family]

    def array_augments(self) -> list[ArrayAugment]:
        """Return how arrays are changed, and then each of their views. Raises ConfigError for what is of images."""
        self._refuse("augment", "view_augment", "is of images, and model.image.array takes arrays: set data.array_{}")
        if made := [*self.view_augments, *self.makers()]:
            key = SETS[made[0]].setting.partition("=")[0]
            raise ConfigError(f"data.{key} is of images, and model.image.array takes arrays: leave it out")
        return [self.array_augment] + [self.array_view_augment] * self.views

    def refuse_array_augments(self) -> None:
        """Raise ConfigError where images are to be changed as arrays are."""
        self._refuse("array_augment", "array_view_augment", "is of arrays, and the model takes images: leave {} out")

    def _refuse(self, *told: str) -> None:
        for name in told[:-1]:
            if getattr(self, name) != getattr(DataConfig, name):
                raise ConfigError(f"data.{name} {told[-1].format(name)}")

    def makers(self) -> dict[str, Maker]:
        """Return what makes pixel sets of the images' own pixels, by the sets' names."""
        how = self.degrade
        made: dict[str, Maker] = {
            "sharpened": Sharpened(how.sharpen, how.strength),
            "blurred": Blurred(how.blur, how.sigma),
            "turned": Turned(0 if self.turned == "none" else 1, self.turned),
        }
        return {name: maker for name, maker in made.items() if maker.count}

    def members(self) -> dict[str, str]:
        """Return the member that each pixel set is read from, of those that are read from one."""
        own = {"companion": self.companion, "generated": self.generated}
        return {name: member for name, member in own.items() if member}

    def pixel_sets(self) -> dict[str, int]:
        """Return how many there are of each pixel set, by name, in the order of the table."""
        counts = {"views": self.views} | {name: one.count for name, one in self._families()}
        counts |= dict.fromkeys(self.members(), 1) | {name: maker.count for name, maker in self.makers().items()}
        return {name: counts[name] for name in SETS if counts.get(name)}

    def asked_alone(self, needs: Iterable[str]) -> DataConfig:
        """Return the config without the pixel sets and the sources of texts that none of these features tells of.

        data.views stay: which patches are left out depends on their number.
        """
        needs = {*needs}
        asked, how = {FEATURES[name].pixels for name in needs}, self.degrade
        blur, sharpen = how.blur if "blurred" in asked else 0, how.sharpen if "sharpened" in asked else 0
        return dataclasses.replace(
            self,
            view_augments={name: one for name, one in self.view_augments.items() if name in asked},
            degrade=dataclasses.replace(how, blur=blur, sharpen=sharpen),
            turned=self.turned if "turned" in asked else "none",
            companion=self.companion if "companion" in asked else "",
            generated=self.generated if "generated" in asked else "",
            text_sources=self.text_sources if needs & {"text_sources", "has_text"} else (),
        )

    def _families(self) -> list[tuple[str, Views]]:
        return [(name, self.view_augments[name]) for name in SETS if name in self.view_augments]

    def turns(self) -> int:
        """Return how many ways of turning an image there are, 0 where it is not turned."""
        return 0 if self.turned == "none" else len(TURNS[self.turned])

    def arranged(self) -> Order:
        """Return the order of the samples, not yet set up. Raises ConfigError."""
        return build({"use": "cluster_batches", "labels": self.pure} if self.pure else self.order)

    def _check_order(self) -> None:
        if self.pure and self.order != "shuffled":
            raise ValueError("pure is short for order: {use: cluster_batches, labels: ...}; set one of them")
        try:
            found = self.arranged()
        except ConfigError as error:
            raise ValueError(str(error)) from None
        blocks = self.block > 1 and not found.blocks
        if found.alone and (len(self.sources()) > 1 or self.tail == "pad" or blocks):
            what = "samples" if found.blocks else "single samples"
            raise ValueError(
                f"{'pure' if self.pure else f'order: {found.key}'} draws batches of one source's {what}: it needs one "
                f"source, tail: carry{'' if found.blocks else ', block: 1'}"
            )

    def _check_fields(self) -> None:
        for name in self.fields:
            if name not in FIELDS:
                raise ValueError(f"fields.{name}: there is no such batch field{nearest(name, FIELDS)}")
            if FIELDS[name].short and getattr(self, FIELDS[name].short):
                raise ValueError(f"{FIELDS[name].short} is short for fields.{name}; set one of them")
        for name, one in self.given().items():
            if wrong := fault(name, one.values, self.sources()):
                raise ValueError(f"fields.{name}: {wrong}")
            if one.most and not KINDS[FIELDS[name].kind].most:
                raise ValueError(f"fields.{name}.most: a {FIELDS[name].kind} is one value; leave it out")

    def _check_sets(self) -> None:
        families = [name for name in SETS if SETS[name].setting.startswith("view_augments.")]
        for name in self.view_augments:
            if name not in families:
                raise ValueError(
                    f"view_augments.{name}: there is no such family of views{nearest(name, families)}; there are "
                    f"{', '.join(families)}"
                )
        for name, member in self.members().items():
            if ":" in member or member.startswith("."):
                raise ValueError(f"{name} is the ending of a member with an image, like ref.jpg, not {member!r}")
