"""The contract of a scorer: argument names of score say what it needs, its value is a number per pair.

::

    class Sharp(Scorer, key="sharp"):
        size: int = 64  # px, to which images are brought before

        def score(self, images):
            return [np.asarray(image.convert("L").resize((self.size, self.size))).std() for image in images]

`images` are upright RGB images of PIL, `texts` are strings, both of the same length: a pair each. A scorer that takes
no texts is not given captions, one that takes no images decodes none. One whose images are no photos says in `members`
and `prepare` how they are read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import dataclass_transform

from mmclr import plugins
from mmclr.config import config, to_tree
from mmclr.data.pixels.decode import MAX_PIXELS, EncodedImage
from mmclr.data.pixels.photo import WHITE
from mmclr.data.shards.shards import IMAGES
from mmclr.errors import UserError

SCORERS: dict[str, type[Scorer]] = {}
GIVEN = ("images", "texts")  # what score may ask for


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Scorer:
    """A rule that gives each pair a number. A subclass is a config with a function, registered by its key.

    score returns numbers [n], NaN where it has none; the number of a pair must not depend on the others.
    """

    key: ClassVar[str]
    paper: ClassVar[str] = ""  # key of its entry in the catalogue of papers, if it realises one
    score: ClassVar[Callable[..., ArrayLike]]

    def __init_subclass__(cls, key: str) -> None:
        super().__init_subclass__()
        cls.key = key
        asked = tuple(inspect.signature(cls.score).parameters)[1:]
        if not asked or not set(asked) <= set(GIVEN):
            raise TypeError(f"{cls.__name__}.score asks for {', '.join(asked)}; it may ask for images, texts, or both")
        plugins.register("scorer", SCORERS, key, config(cls))

    @property
    def members(self) -> Sequence[str]:
        """Extensions of members that hold images: of those that a sample has, the first is taken."""
        return IMAGES

    @property
    def beside(self) -> Sequence[str]:
        """Extensions of further members that `prepare` looks into."""
        return ()

    def prepare(self, data: bytes, beside: Mapping[str, bytes]) -> Any:
        """Decode an image, in any thread, as score takes it; `beside` are the sample's members. Raises Fault."""
        return EncodedImage(data, MAX_PIXELS).pixels(WHITE)

    @property
    def needs(self) -> tuple[str, ...]:
        """The arguments of score: images, texts, or both."""
        return tuple(inspect.signature(type(self).score).parameters)[1:]

    def made(self) -> Mapping[str, Any]:
        """Return what its numbers depend on, as JSON: its settings, or better a hash of the weights that they name.

        A column that was made with the same is not made again.
        """
        return to_tree(self)


def scores(scorer: Scorer, images: Sequence[Any], texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the numbers [n] of n pairs. Raises UserError where the scorer returns something else."""
    given = {"images": images, "texts": texts}
    found = np.asarray(scorer.score(**{name: given[name] for name in scorer.needs}))
    count = len(given[scorer.needs[0]])
    if found.shape != (count,) or not np.issubdtype(found.dtype, np.number):
        raise UserError(
            f"the scorer {scorer.key} returned {found.dtype} {list(found.shape)} for {count} pairs; "
            "it is to return a number for each"
        )
    return found.astype(np.float32)
