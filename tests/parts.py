"""Parts of one's own, for as long as a test needs them."""

import contextlib
import io
import json
import os
import sys
import tarfile

from PIL import Image

from mmclr import heads, plugins, reweighters, scorers, vocabulary
from mmclr.data.stream import order
from mmclr.features import provider
from mmclr.heads.head import HEADS
from mmclr.losses import catalogue
from mmclr.losses.objective import _REGISTRY
from mmclr.models.foreign import libraries
from mmclr.reweighters.reweighter import REWEIGHTERS
from mmclr.scorers.scorer import SCORERS

REGISTRIES = (
    _REGISTRY, HEADS, REWEIGHTERS, SCORERS, order._REGISTRY, provider._REGISTRY, libraries.ADDED, vocabulary._ROWS,
    plugins.COMMANDS, plugins.SUITES,
)  # fmt: skip
ours: list[dict[str, object]] = []  # what the registries hold without a plugin


@contextlib.contextmanager
def as_before():
    """Take out what plugins register inside, and their modules."""
    for every in (catalogue, *(kind.catalogue for kind in (heads, reweighters, scorers, order, provider))):
        every()  # ours are there
    kept = [dict(registry) for registry in REGISTRIES]
    ours[:] = kept
    modules, path, files = set(sys.modules), list(sys.path), os.environ.pop(plugins.FILES, None)
    try:
        yield
    finally:
        _set(kept)
        for name in set(sys.modules) - modules:
            if name.startswith(("mmclr.plugins.", "somebodys", "own_objective")):
                del sys.modules[name]
        sys.path[:] = path
        plugins.GIVEN.clear()
        os.environ.pop(plugins.FILES, None)
        if files is not None:
            os.environ[plugins.FILES] = files


@contextlib.contextmanager
def nothing_loaded():
    """Be, inside, as a process is that has loaded no plugin; inside `as_before`."""
    modules = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("mmclr.plugins.")}
    kept = [dict(registry) for registry in REGISTRIES]
    _set(ours)
    try:
        yield
    finally:
        _set([now | before for now, before in zip(map(dict, REGISTRIES), kept)])
        sys.modules.update(modules)


def _set(state):
    for registry, parts in zip(REGISTRIES, state):
        registry.clear()
        registry.update(parts)


def shard(path):
    """Write images of one colour with their captions; return the shard's path."""
    with tarfile.open(path, "w") as tar:
        for i in range(32):
            image = io.BytesIO()
            Image.new("RGB", (32, 32), (8 * i, 255 - 8 * i, 90)).save(image, "PNG")
            for extension, data in (("png", image.getvalue()), ("txt", f"colour number {i}".encode())):
                info = tarfile.TarInfo(f"{i:03d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


def run(folder, *overrides):
    """Train two steps of the smallest run on such a shard; return the rows of its log."""
    from mmclr.config import load
    from mmclr.train.run import RunConfig
    from mmclr.train.trainer import train

    folder.mkdir(exist_ok=True)
    own = [f"data.train={shard(folder / '0.tar')}", f"out={folder / 'run'}", "steps=2", "trackers=none", "threads=1"]
    train(load(RunConfig, "debug.yaml", [*own, *overrides]), quiet=True)
    rows = map(json.loads, (folder / "run" / "log.jsonl").read_text().splitlines())
    return [row for row in rows if "loss" in row]
