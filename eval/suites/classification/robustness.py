"""Measure the zero-shot accuracy that is left on corrupted images, at five strengths.

After Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261, in a form that needs nothing but Pillow and numpy: the
same kinds (noise, blur, weather-like contrast and brightness, compression, resolution), our own constants, which stand
in CORRUPTIONS. Numbers compare models with each other here; they are not those of ImageNet-C.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics.measurement import Measurement
from mmclr.eval.result import Result
from mmclr.eval.sets.evaluation_set import EvalSet
from mmclr.eval.suite import Suite
from mmclr.eval.suites.classification import zero_shot
from PIL import Image, ImageEnhance, ImageFilter

from mmclr.data.pixels.decode import MAX_PIXELS, as_stored
from mmclr.data.samples.skipped import Fault
from mmclr.data.shards.shards import IMAGES, Sample
from mmclr.errors import UserError

Corruption = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def _noise(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image).astype(np.float64)
    return Image.fromarray((pixels + rng.normal(0, 255 * strength, pixels.shape)).clip(0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=int(strength))
    return Image.open(out)


def _small(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    size = (max(1, round(image.width * strength)), max(1, round(image.height * strength)))
    return image.resize(size, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


def _blur(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(strength * min(image.size)))


def _occlude(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    side = [max(1, round(length * strength)) for length in image.size]
    left, top = (int(rng.integers(0, length - part + 1)) for length, part in zip(image.size, side))
    image.paste((128, 128, 128), (left, top, left + side[0], top + side[1]))
    return image


# name: (how, its five strengths)
CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian_noise": (_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),  # standard deviation, share of the range
    "gaussian_blur": (_blur, (0.005, 0.01, 0.015, 0.025, 0.04)),  # radius, share of the shorter side
    "pixelate": (_small, (0.6, 0.5, 0.4, 0.3, 0.25)),  # share of the size that is left
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),  # quality
    "brightness": (lambda i, s, rng: ImageEnhance.Brightness(i).enhance(s), (1.2, 1.4, 1.6, 1.8, 2.0)),  # factor
    "contrast": (lambda i, s, rng: ImageEnhance.Contrast(i).enhance(s), (0.6, 0.45, 0.3, 0.2, 0.1)),  # factor
    "grey": (lambda i, s, rng: ImageEnhance.Color(i).enhance(s), (0.8, 0.6, 0.4, 0.2, 0.0)),  # colour that is left
    "occlusion": (_occlude, (0.2, 0.3, 0.4, 0.5, 0.6)),  # side of a grey box, share of the image's
}


def run(embedder: Embedder, data: EvalSet) -> Result:
    """Measure acc1 clean and under each corruption (mean over strengths), their mean, and the share that is kept."""
    data.need_classes()
    if data.multilabel:
        raise UserError(f"{data.name}: images of several classes have no accuracy to lose; name a label of one class")
    image = embedder.model.config.image
    if image.deep or image.array is not None:
        raise UserError(
            f"{embedder.name}: corruptions are made of RGB images of 8 bits, and it sees others; leave it out"
        )
    began = time.perf_counter()
    clean = zero_shot.run(embedder, data)
    hits = {}
    for name, (_, strengths) in CORRUPTIONS.items():
        runs = [zero_shot.run(embedder, corrupted(data, name, level)) for level in range(len(strengths))]
        hits[name] = np.mean([result.measurements["acc1"].values for result in runs], axis=0)
    mean = Measurement(np.mean(list(hits.values()), axis=0), unit="images")
    accuracy = clean.measurements["acc1"]
    measured: dict[str, Measurement | float | None] = {"acc1": accuracy, "corrupted_acc1": mean}
    measured |= {f"{name}_acc1": Measurement(values, unit="images") for name, values in hits.items()}
    measured["kept"] = mean.mean / accuracy.mean if accuracy.mean else None  # type: ignore[operator]
    made = Result.of(measured, dataset=data.name, model=embedder.name, task="robustness")
    return replace(
        clean,
        task="robustness",
        metrics=made.metrics,
        n=made.n,
        ci95=made.ci95,
        ci95_method=made.ci95_method,
        measurements=made.measurements,
        notes=[f"mean over five strengths of {', '.join(CORRUPTIONS)}"],
        seconds=round(time.perf_counter() - began, 3),
    )


def corrupted(data: EvalSet, name: str, level: int) -> EvalSet:
    """Return the set with its images spoilt; the noise of an image depends on its key alone."""
    how, strengths = CORRUPTIONS[name]

    def read(number: int) -> bytes:
        return spoil(data.read(number), data.keys[number])

    def sample(number: int, members: frozenset[str]) -> Sample:
        assert data.sample
        found = data.sample(number, members)
        images = {name: value for name, value in found.members.items() if name.rpartition(".")[2] in IMAGES}
        spoilt = {name: spoil(value, f"{data.keys[number]} {name}") for name, value in images.items()}
        return found._replace(members={**found.members, **spoilt})

    def spoil(encoded: bytes, key: str) -> bytes:
        seed = hashlib.sha256(f"{key} {name} {level}".encode()).digest()[:8]
        try:
            image = as_stored(encoded, MAX_PIXELS)
        except Fault:
            return encoded  # left out and counted as in the clean set
        out = io.BytesIO()
        spoilt = how(image, strengths[level], np.random.default_rng(int.from_bytes(seed, "little")))
        spoilt.save(out, "PNG", compress_level=1)
        return out.getvalue()

    return replace(data, read=read, sample=sample if data.items else None, keep=False)


EXAMPLES = """examples:
  mmclr eval robustness runs/clip --data wds_cifar10
  mmclr eval robustness runs/clip --data 'test-*.tar' --label json:subgroup --template 'an icon of {c}'
"""

suite = Suite("robustness", __doc__, EXAMPLES, run=lambda embedder, data, args: run(embedder, data))
main = suite.main
