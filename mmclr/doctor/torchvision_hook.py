"""Let a torchvision built for CUDA be imported beside a torch without CUDA.

`mmclr doctor --fix` copies this file into the environment's site-packages, next to a .pth file that imports it
whenever Python starts; so it costs one small import, needs nothing of mmclr, and works for every command of the
environment (`accelerate launch`, which imports timm, is one). To take it out again, delete the two files.

Such a torchvision cannot load its compiled operators, and then fails on the registrations that belong to two of
them: "operator torchvision::nms does not exist". Declaring the two (a schema, no kernel) before its code runs is
enough for transforms, timm, open_clip and transformers; detection operators still say that they are not there.
Nothing is done where torch was built for an accelerator, or where torchvision's own operators load.
"""

import sys

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
declared = []  # torch libraries; what they declare lives as long as they do


class Finder:
    """Stands first among the finders and answers for torchvision only; nothing happens until its code is to run."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Return the usual spec, whose loader declares the operators before it runs the package."""
        if name != "torchvision":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            run = spec.loader.exec_module

            def exec_module(module):
                declare(spec.origin)
                run(module)

            spec.loader.exec_module = exec_module
        return spec


def declare(origin):
    """Declare the operators if the torchvision whose __init__.py is `origin` cannot load its own."""
    try:
        import torch
    except ImportError:
        return  # torchvision itself will say so
    if torch.version.cuda or getattr(torch.version, "hip", None) or operators_load(torch, origin):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    declared.append(library)


def operators_load(torch, origin):
    """Load torchvision's compiled operators, which it will do again at no cost; say whether they fit this torch."""
    from importlib.machinery import EXTENSION_SUFFIXES
    from os.path import dirname, exists, join

    libraries = [join(dirname(origin), "_C" + suffix) for suffix in EXTENSION_SUFFIXES]
    try:
        torch.ops.load_library(next(filter(exists, libraries)))
    except (StopIteration, OSError):
        return False
    return True


def install():
    """Put the finder first, once."""
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


install()
