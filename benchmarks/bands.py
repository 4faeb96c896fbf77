"""Models of five bands and of grey at 16 bits: trained, evaluated, exported and loaded again, on real images.

    python benchmarks/bands.py [--out build/bands] [--seeds 3] [--steps 80]

Five bands: the icons of which the phosphor font draws five cuts (thin, light, regular, bold, fill), a cut a band, as
.npy of 12 bits. Each name is taken several times, as a sensor does: shifted, and with noise of its own in every band.
Training sees some of these, evaluation another one; a model of five bands is held against a model of each band alone,
on as many samples, steps and seeds. All of them start from a model that was trained on RGB icons of other fonts, whose
weights `init.source` takes for five channels and for one. Grey: picto's images, their luminance in linear light at 16
bits, as TIFF. Both models are exported to transformers and ONNX, and what is loaded again must encode stored numbers as
the run does. Runs that are in --out already are not made again. The last line is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmclr.data_tools.commands.convert import icons
from mmclr.data_tools.lib.shard_writer import ShardWriter
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.retrieval import retrieval
from numpy.typing import NDArray
from PIL import Image, ImageFont

import mmclr
from mmclr.config import load
from mmclr.data.samples.reader import normalise
from mmclr.export.commands import onnx, transformers
from mmclr.export.origin import Source
from mmclr.train import trainer
from mmclr.train.run import RunConfig

PICTO = Path(__file__).resolve().parents[2] / "shared" / "data" / "picto"
CUTS = ("thin", "light", "", "bold", "fill")  # last word of a name; "" is the regular one
SIZE, WHOLE = 32, 4095  # pixels a side; of 12 bits
WINDOW = {"low": 0, "high": WHOLE}
NOISE, SHIFT = 0.6, 1  # standard deviation in parts of full ink; pixels
LOOKS, TEST = 4, 1  # takes of a name for training, for evaluation
FROM_NOTHING = 360  # steps of the models that start with random weights
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear sRGB, Rec. 709
SMALL = {"width": 64, "layers": 2, "heads": 2, "mlp": 256}
MODEL = {"embed": 64, "image": {"size": SIZE, "patch": 8, **SMALL}, "text": {"context": 16, **SMALL}}


def cuts() -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield each name of phosphor that has all cuts, and its ink in [0, 1], [5, SIZE, SIZE]."""
    fonts = icons._fonts()
    family = next(family for family in icons.FAMILIES if family.key == "phosphor")
    table = json.loads(icons._only(fonts, f"{family.file}-*.json").read_text())
    font = ImageFont.truetype(str(icons._only(fonts, f"{family.file}-*.ttf")), 4 * SIZE)
    for name in table:
        names = [f"{name}-{cut}" if cut else name for cut in CUTS]
        masks = [icons._mask(font, chr(int(table[one], 16))) if one in table else None for one in names]
        if all(mask is not None for mask in masks):
            inks = [np.asarray(Image.open(io.BytesIO(icons._png(mask, SIZE))), np.float64) for mask in masks if mask]
            yield name.replace("-", " "), 1 - np.stack(inks) / 255


def take(ink: NDArray[np.float64], key: Sequence[int]) -> NDArray[np.uint16]:
    """Return one take of five bands as a sensor of 12 bits stores it: shifted together, noise in each band."""
    draw = np.random.default_rng(key)
    shifted = np.roll(ink, draw.integers(-SHIFT, SHIFT + 1, 2), (1, 2))
    seen = 0.75 - 0.5 * shifted + 0.5 * NOISE * draw.normal(size=ink.shape)
    return (seen.clip(0, 1) * WHOLE).round().astype(np.uint16)


def pack_bands(out: Path) -> tuple[int, dict[str, Path]]:
    """Write shards of all five bands and of each alone; return how many names there are, and the folders by kind."""
    folders = {kind: out / kind for kind in ("five", *(cut or "regular" for cut in CUTS))}
    found = list(cuts())
    for number, (kind, folder) in enumerate(folders.items()):
        kept = slice(None) if kind == "five" else slice(number - 1, number)
        for split, looks in (("train", range(LOOKS)), ("test", range(LOOKS, LOOKS + TEST))):
            settings = {"kind": kind, "noise": NOISE, "shift": SHIFT, "size": SIZE, "split": split}
            with ShardWriter(folder / split, settings, 2000, 1 << 30) as shards:
                members = (
                    (f"{at:04d}-{look}", {"npy": _npy(take(ink, (at, look))[kept]), "txt": name.encode()})
                    for look in looks
                    for at, (name, ink) in enumerate(found)
                )
                _write(shards, members)
    return len(found), folders


def pack_rgb(out: Path) -> Path:
    """Write shards of the icons of all other families of training, as photographs, with their names."""
    fonts = icons._fonts()
    families = [family for family in icons.FAMILIES if family.split == "train" and family.key != "phosphor"]
    drawn = ((icon, png) for family in families for icon, png in icons._draw(fonts, family, SIZE) if png)
    members = ((icon.key, {"png": png, "txt": str(icon.fields()["plain"]).encode()}) for icon, png in drawn if png)
    with ShardWriter(out / "train", {"families": [family.key for family in families]}, 1000, 1 << 30) as shards:
        _write(shards, members)
    return out


def pack_grey(out: Path, most: int) -> Path:
    """Write picto's shards with luminance in linear light, 16 bits, TIFF; at most so many shards of training."""
    for split, files in (
        ("train", sorted(PICTO.glob("train-*.tar"))[:most]),
        ("test", sorted(PICTO.glob("test-*.tar"))),
    ):
        with ShardWriter(out / split, {"from": [file.name for file in files]}, 2000, 1 << 30) as shards:
            _write(shards, (found for file in files for found in _grey(file)))
    return out


def _grey(file: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    texts: dict[str, bytes] = {}
    images: dict[str, bytes] = {}
    with tarfile.open(file) as tar:
        for member in tar:
            key, _, kind = member.name.rpartition(".")
            if kind in ("jpg", "txt"):
                (images if kind == "jpg" else texts)[key] = tar.extractfile(member).read()  # type: ignore[union-attr]
    for key, data in images.items():
        coded = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64) / 255
        linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
        buffer = io.BytesIO()
        Image.fromarray((linear @ LUMINANCE * 65535).round().astype(np.uint16)).save(buffer, "TIFF")
        yield key, {"tif": buffer.getvalue(), "txt": texts[key]}


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _write(shards: ShardWriter, members: Iterator[tuple[str, dict[str, bytes]]]) -> None:
    if shards.finished:
        return
    at = 0
    for at, (key, parts) in enumerate(members, 1):
        if at > shards.done:
            shards.add(key, parts, at)
    shards.finish(at)


def train(
    folder: Path, out: Path, image: dict[str, Any], seed: int, steps: int, lr: float, data: Any = None, init: str = ""
) -> Path:
    """Train on a folder's shards, from the model `init` if one is named, and return the run's folder."""
    tree = {
        "out": str(out),
        "seed": seed,
        "data": {
            "train": str(folder / "train" / "*.tar"),
            "batch": 128,
            "workers": 1,
            "cache": "decoded",
            **(data or {}),
        },
        "model": {**MODEL, "image": {**MODEL["image"], **image}},  # type: ignore[dict-item]
        "init": {"source": init},
        "optim": {"lr": lr, "warmup": 0.1},
        "steps": steps,
        "save": {"every_minutes": 0.0},
        "trackers": "none",
    }
    trainer.train_until_stopped(load(RunConfig, tree))
    return out


def measure(run: Path, folder: Path) -> dict[str, float]:
    """Return recalls of images by caption on a folder's test shards, with the size of the set."""
    data = open_set(str(folder / "test" / "*.tar"))
    found = retrieval.run(Embedder.load(run), data, relation="caption")
    keys = [name for name in found.metrics if name.startswith("image_retrieval_recall")]
    return {"images": len(data), **{name: round(float(found.metrics[name]), 4) for name in keys}}


def _stored(folder: Path, most: int = 64) -> list[bytes]:
    """Return image files of a folder's test shards as they are stored."""
    with tarfile.open(sorted((folder / "test").glob("*.tar"))[0]) as tar:
        files = [member for member in tar if member.name.endswith((".npy", ".tif"))][:most]
        return [tar.extractfile(member).read() for member in files]  # type: ignore[union-attr]


def again(run: Path, out: Path, files: list[bytes]) -> dict[str, float]:
    """Export a run in each form, load it again; return how far embeddings of stored files move, and each parity."""
    source = Source.open(run)
    ours = mmclr.load(run)
    images = [ours.prepare(file) for file in files]
    expected = ours.encode_image(images)
    found = {}
    for name, write in (("transformers", transformers.write), ("onnx", onnx.write)):
        shutil.rmtree(out / name, ignore_errors=True)
        parities = write(source, out / name)
        found |= {f"{name}_{key}": value for key, value in parities.items() if key in ("image_features", "pixels")}
    loaded = mmclr.load(out / "transformers")
    found["loaded"] = float(np.abs(loaded.encode_image([loaded.prepare(file) for file in files]) - expected).max())
    graph = onnx.load(out / "onnx")
    pixels = normalise(ours.medium.batched(np.stack([image.pixels for image in images])), *_scale(ours))
    found["onnx_of_stored"] = float(np.abs(graph.image(pixels).numpy() - expected).max())
    return found


def _scale(model: Any) -> tuple[Sequence[float], Sequence[float]]:
    return model.model.config.image.mean, model.model.config.image.std


def main() -> None:
    """Make shards, train, evaluate, export, load again; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/bands"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    args = parser.parse_args()
    began = time.monotonic()
    names, folders = pack_bands(args.out / "shards")
    print(f"{names} names in five cuts, {LOOKS} takes each for training, {TEST} for evaluation", flush=True)
    recall: dict[str, list[float]] = {kind: [] for kind in folders}
    rgb = pack_rgb(args.out / "rgb-shards")
    source = train(rgb, args.out / "rgb-0", {}, 0, FROM_NOTHING, 3e-3)
    for seed in range(args.seeds):
        for kind, folder in folders.items():
            image = {"channels": 5 if kind == "five" else 1}
            run = args.out / f"{kind}-{seed}"
            train(folder, run, image, seed, args.steps, 1e-3, {"intensity": WINDOW}, str(source))
            recall[kind].append(measure(run, folder)["image_retrieval_recall@10"])
            print(
                f"seed {seed}  {kind:8} recall@10 {recall[kind][-1]:.3f}  {time.monotonic() - began:.0f} s", flush=True
            )
    five, alone = recall["five"], {kind: values for kind, values in recall.items() if kind != "five"}
    margins = [five[seed] - max(values[seed] for values in alone.values()) for seed in range(args.seeds)]
    print(f"five bands above the best alone by {', '.join(f'{margin:.3f}' for margin in margins)}")
    grey = pack_grey(args.out / "grey-shards", 4)
    run = train(grey, args.out / "grey", {"channels": 1}, 0, FROM_NOTHING, 3e-3)
    found = measure(run, grey)
    print(f"grey of 16 bits: {found}", flush=True)
    apart = {
        "five": again(args.out / "five-0", args.out / "exports-five", _stored(folders["five"])),
        "grey": again(run, args.out / "exports-grey", _stored(grey)),
    }
    for kind, differences in apart.items():
        print(f"{kind}: exported and loaded again, largest differences {differences}")
    report = {
        "names": names,
        "recall@10": recall,
        "smallest_margin": min(margins),
        "grey": found,
        "largest_differences": apart,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
