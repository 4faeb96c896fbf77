"""open_clip 3.3.0's training data pipeline in a process of its own, and how batches of a loader are timed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import peers

BATCH = 32
WARM, TIMED = 3, 4  # batches of a round: those that were made ahead are not timed
PEER_PACKAGES = ("webdataset==0.2.86", "pandas", "python-dateutil", "six")
PEER = """
import os, sys, time, types, warnings
import torch
import open_clip
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip_train.data import get_wds_dataset
shards, batch = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
args = types.SimpleNamespace(train_data=shards, train_num_samples=10**7, dataset_resampled=True, seed=0, workers=1,
                             batch_size=batch, world_size=1, train_data_upsampling_factors=None)
transform = image_transform_v2(PreprocessCfg(size=224), is_train=True)
data = get_wds_dataset(args, transform, True, tokenizer=open_clip.get_tokenizer("ViT-B-32"))
batches = iter(data.dataloader)
images, texts = next(batches)
assert images.shape == (batch, 3, 224, 224) and texts.shape == (batch, 77), (images.shape, texts.shape)
exec(sys.argv[3])
print("ready", flush=True)
for line in sys.stdin:
    print(*measure(lambda: next(batches), batch, *map(int, line.split())), flush=True)
"""
# Shared with the peer's process. A loader works ahead: it is let come to rest before and after, so that the CPU
# time belongs to the batches that were taken, and the first of them, which were made before, are not on the clock.
MEASURE = """
import multiprocessing, os, time

def cpu():
    "Seconds of this process and its workers."
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    ticks = [open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[11:13] for pid in pids]
    return sum(int(part) for pair in ticks for part in pair) / os.sysconf("SC_CLK_TCK")

def rest():
    before = -1.0
    while cpu() - before > 0.005:
        before = cpu()
        time.sleep(0.2)
    return before

def measure(take, batch, warm, timed):
    "Return seconds per sample: of the clock, of the CPU."
    begin = rest()
    for _ in range(warm):
        take()
    start = time.perf_counter()
    for _ in range(timed):
        take()
    seconds = time.perf_counter() - start
    return seconds / (batch * timed), (rest() - begin) / (batch * (warm + timed))
"""
_made: dict[str, Any] = {}
exec(MEASURE, _made)
measure: Callable[[Callable[[], Any], int, int, int], tuple[float, float]] = _made["measure"]


@contextmanager
def open_clip_pipeline(shards: str) -> Iterator[Callable[[], tuple[float, float]]]:
    """Start the peer; yield a function that measures it."""
    path = peers.install("webdataset-0.2.86", PEER_PACKAGES)
    environment = {**os.environ, "PYTHONPATH": str(path), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-W", "ignore", "-c", PEER, shards, str(BATCH), MEASURE]
    with subprocess.Popen(command, env=environment, text=True, stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit("the peer does not start: see above")

        def ask() -> tuple[float, float]:
            print(WARM, TIMED, file=process.stdin, flush=True)
            clock, cpu = map(float, process.stdout.readline().split())
            return clock, cpu

        yield ask
        process.stdin.close()
