"""Parts of one's own, for as long as a test needs them."""

import contextlib
import io
import os
import sys
import tarfile

from PIL import Image

from mmclr import heads, plugins, reweighters
from mmclr.heads.head import HEADS
from mmclr.losses import catalogue
from mmclr.losses.objective import _REGISTRY
from mmclr.reweighters.reweighter import REWEIGHTERS

REGISTRIES = (_REGISTRY, HEADS, REWEIGHTERS, plugins.COMMANDS, plugins.SUITES)


@contextlib.contextmanager
def as_before():
    """Take out what plugins register inside, and their modules."""
    catalogue(), heads.catalogue(), reweighters.catalogue()  # ours are there
    kept = [dict(registry) for registry in REGISTRIES]
    modules, path, files = set(sys.modules), list(sys.path), os.environ.pop(plugins.FILES, None)
    try:
        yield
    finally:
        for registry, before in zip(REGISTRIES, kept):
            registry.clear()
            registry.update(before)
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
    """Be, inside, as a process is that has loaded no plugin."""
    modules = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("mmclr.plugins.")}
    kept = [dict(registry) for registry in REGISTRIES]
    for registry in REGISTRIES:
        for key in [key for key, part in registry.items() if not plugins.is_ours(part)]:
            del registry[key]
    try:
        yield
    finally:
        for registry, before in zip(REGISTRIES, kept):
            registry.update(before)
        sys.modules.update(modules)


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
