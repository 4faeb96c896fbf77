"""The loader side by side with open_clip 3.3.0's, which reads tar shards only with webdataset 0.2.86.

Both read the same shards (640 x 480 JPEG at quality 85 and captions), cut the same kind of 224 px crops and make
tokens and batches in one worker process; they take turns, round by round, and a ratio is the median of the rounds'
ratios. The other names compare with webdataset 1.x and Python's tarfile in this process. Last line: one JSON object.
    python benchmarks/data.py [name ...]
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from open_clip_loader import BATCH, TIMED, WARM, measure, open_clip_pipeline
from PIL import Image

from mmclr.config import load
from mmclr.data.samples.text import Tokenizer
from mmclr.data.shards import index, sources, tar
from mmclr.data.shards.shards import Shards
from mmclr.data.stream.batch_builder import Start
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.data.stream.order import Order, Stream, build

SAMPLES, SHARDS, ROUNDS = 640, 4, 5


def write_photos(folder: Path) -> str:
    """Write shards of images with detail at all scales, as photographs have; return their pattern."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for shard in range(SHARDS):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as out:
            for n in range(SAMPLES // SHARDS):
                words = " ".join(f"word{draw.integers(1000)}" for _ in range(draw.integers(4, 20)))
                out.write({"__key__": f"{shard}{n:06d}", "jpg": photo(draw), "txt": words, "json": {"n": n}})
    return str(folder / f"{{00000..{SHARDS - 1:05d}}}.tar")


def photo(draw: np.random.Generator, size: tuple[int, int] = (640, 480)) -> bytes:
    """A JPEG of about 60 kB: noise with a 1/f spectrum."""
    total = np.zeros((size[1], size[0], 3))
    for octave in range(1, 9):
        cells = (max(2, size[0] >> octave - 1), max(2, size[1] >> octave - 1))
        noise = Image.fromarray(draw.integers(0, 256, (cells[1], cells[0], 3), dtype=np.uint8))
        total += np.asarray(noise.resize(size, Image.Resampling.BICUBIC), float) * 2.0 ** (octave - 8.1)
    out = io.BytesIO()
    Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def our_pipeline(shards: str, **settings: Any) -> Iterator[Any]:
    """Start a loader with one worker; return its batches."""
    config = load(DataConfig, {"train": shards, "batch": BATCH, "workers": 1, **settings})
    batches = iter(Loader(config, Tokenizer.load("clip"), 224, seed=0))
    assert next(batches).pixels.shape == (BATCH, 3, 224, 224)
    return batches


def ratios(peer: Callable[[], float], ours: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, float]:
    """Let all take turns; return for each of ours the median of peer's time / its time."""
    table: dict[str, list[float]] = {name: [] for name in ours}
    for _ in range(rounds):
        theirs = peer()
        for name, ask in ours.items():
            mine = ask()
            table[name].append(theirs / mine)
            print(f"  {name}: {1 / theirs:,.0f} and {1 / mine:,.0f} samples/s", flush=True)
    return {name: statistics.median(values) for name, values in table.items()}


def loader(shards: str) -> dict[str, float]:
    """224 px training crops from JPEG, one worker each."""
    variants: dict[str, dict[str, Any]] = {
        "loader_speedup_224": {},
        "loader_speedup_224_hamming": {"resample": "hamming"},
        "loader_speedup_224_turbo": {"decoder": "turbo"},
        "loader_speedup_224_turbo_hamming": {"decoder": "turbo", "resample": "hamming"},
    }
    table: dict[str, list[float]] = {}
    with open_clip_pipeline(shards) as peer:
        for _ in range(ROUNDS):
            theirs = peer()
            for name, settings in variants.items():
                batches = our_pipeline(shards, **settings)  # one at a time: the CPU time is of this process's workers
                ours = measure(lambda: next(batches), BATCH, WARM, TIMED)  # noqa: B023
                batches.close()
                print(
                    f"  {name}: {1 / theirs[0]:,.0f} and {1 / ours[0]:,.0f} samples/s; on one core of their own "
                    f"{1 / theirs[1]:,.0f} and {1 / ours[1]:,.0f}",
                    flush=True,
                )
                table.setdefault(name, []).append(theirs[0] / ours[0])
                table.setdefault(f"{name}_cpu", []).append(theirs[1] / ours[1])
    return {name: statistics.median(values) for name, values in table.items()}


def shuffled(samples: int, block: int = 1) -> Order:
    """Return the order of an ordinary run over one source."""
    order = build("shuffled")
    order.setup(Stream([samples], [1.0], 0, 256, lambda name: np.zeros(samples, np.int64), block, 16))
    return order


def reading(shards: str) -> dict[str, float]:
    """Raw samples out of tar files: webdataset in their order, we in random order."""
    urls = sources.expand(shards)
    held = Shards(index.open_indices(urls), extras=("json",))
    order = shuffled(len(held)).at(np.arange(len(held)))[0].tolist()

    def theirs() -> float:
        begin = time.perf_counter()
        count = sum(1 for _ in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
        return (time.perf_counter() - begin) / count

    def ours() -> float:
        begin = time.perf_counter()
        for number in order:
            held.read(number)
        return (time.perf_counter() - begin) / len(order)

    return ratios(theirs, {"tar_random_read_speedup": ours})


def indexing(shards: str) -> dict[str, float]:
    """All headers of a shard: Python's tarfile, our scan, and our scan with samples put together."""
    out = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = f"{scratch}/ustar.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for n in range(3000):
                for extension, size in (("jpg", 20_000), ("txt", 60), ("json", 300)):
                    info = tarfile.TarInfo(f"{n:08d}.{extension}")
                    info.size = size
                    archive.addfile(info, io.BytesIO(bytes(size)))
        for name, url in (("", path), ("_pax", sources.expand(shards)[0])):
            stat, reader = sources.stat(url), sources.Reader()

            def theirs(url: str = url) -> float:
                begin = time.perf_counter()
                with tarfile.open(url) as archive:
                    archive.getmembers()
                return time.perf_counter() - begin

            def scan(url: str = url, stat: sources.Stat = stat, reader: sources.Reader = reader) -> float:
                begin = time.perf_counter()
                with reader.opened(url) as read:
                    tar.scan(read, stat.size)
                return time.perf_counter() - begin

            def whole(url: str = url, stat: sources.Stat = stat, reader: sources.Reader = reader) -> float:
                begin = time.perf_counter()
                index.build(url, stat, reader)
                return time.perf_counter() - begin

            out |= ratios(theirs, {f"index_rate{name}": scan, f"index_rate_with_samples{name}": whole})
    return out


def order(shards: str) -> dict[str, float]:
    """Nanoseconds per position, and memory, of the shuffle of 1e9 samples."""
    whole, blocks = shuffled(10**9), shuffled(10**9, 64)
    out = {}
    for name, made in (("order_ns", whole), ("order_ns_blocks", blocks)):
        rounds = []
        for start in range(ROUNDS):
            begin = time.perf_counter()
            made.at(np.arange(start * 10**8, start * 10**8 + 1024))
            rounds.append((time.perf_counter() - begin) / 1024 * 1e9)
        out[name] = statistics.median(rounds)
    tracemalloc.start()
    whole.at(np.arange(5 * 10**8, 5 * 10**8 + 1024))
    out["order_mib"] = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return out


def memory(shards: str) -> dict[str, float]:
    """Growth of the resident memory from the end of the first epoch to the end of the fifth: loader and worker."""
    config = load(DataConfig, {"train": shards, "batch": BATCH, "workers": 1})
    made = Loader(config, Tokenizer.load("clip"), 224, seed=0)
    page, sizes = resource.getpagesize(), []
    for _, batch in zip(range(5 * made.batches_per_epoch), made):
        del batch
        if made.position % made.samples == 0:
            pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            sizes.append(sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * page)
    print("  MiB:", *(f"{size / 2**20:.1f}" for size in sizes))
    return {"rss_growth": sizes[-1] / sizes[0] - 1}


def small(shards: str) -> dict[str, float]:
    """32 px images kept in memory: the whole of a batch of 256 on one core, augmentation and tokens included."""
    with tempfile.TemporaryDirectory() as scratch:
        with webdataset.TarWriter(f"{scratch}/0.tar") as out:
            draw = np.random.default_rng(0)
            for n in range(2048):
                image = io.BytesIO()
                Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(image, "PNG")
                out.write({"__key__": f"{n:06d}", "png": image.getvalue(), "txt": f"image number {n}"})
        augment = {"shift": 0.1, "zoom": [0.8, 1.2], "crop_scale": [1, 1], "crop_ratio": [1, 1]}
        settings = {"batch": 256, "workers": 0, "cache": "decoded", "resample": "bilinear", "augment": augment}
        config = load(DataConfig, {"train": f"{scratch}/0.tar", **settings})
        make = Loader(config, Tokenizer.load("clip"), 32, seed=0).assembler
        rounds = []
        for turn in range(4 * 8):
            begin = time.process_time()
            make(Start(256 * turn, 256))
            rounds.append(time.process_time() - begin)
        return {
            "small_batch_ms": statistics.median(rounds[8:]) * 1e3,
            "small_first_epoch_ms": statistics.median(rounds[:8]) * 1e3,
        }


def main() -> None:
    """Measure everything; names given on the command line measure those alone."""
    torch.set_num_threads(1)
    measures = {f.__name__: f for f in (loader, reading, indexing, order, memory, small)}
    out: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        shards = write_photos(Path(scratch) / "photos")
        size = sum(path.stat().st_size for path in Path(scratch).rglob("*.tar")) / SAMPLES
        print(f"{SAMPLES} samples of {size / 1e3:.0f} kB")
        for name in sys.argv[1:] or measures:
            print(name, flush=True)
            out |= measures[name](shards)
    print(json.dumps({name: float(f"{value:.4g}") for name, value in out.items()}))


if __name__ == "__main__":
    main()
