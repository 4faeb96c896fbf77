"""The file of a model folder that says how an image becomes pixels, as transformers' image processors read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmclr.models.config import ImageConfig
from mmclr.storage.json_file import read_json

Tree = dict[str, Any]
OURS = "mmclr"  # the key of what transformers has no word for
RESAMPLE = {"bicubic": 3, "bilinear": 2}  # Pillow's numbers


def preprocessor(image: ImageConfig) -> Tree:
    """Return the evaluation transform as transformers' image processors read it; of arrays, in words of our own.

    Deep pixels reach such a processor as floats [C, H, W] in [0, 1]: how stored numbers become these has no name there
    and is said under "mmclr".
    """
    if image.array is not None:
        own = {"channels": image.array.channels, "length": image.array.length}
        return {"array": own, "array_mean": list(image.mean), "array_std": list(image.std)}
    crop = image.resize == "crop"
    square = {"height": image.size, "width": image.size}
    return {
        "image_processor_type": "CLIPImageProcessor" if crop else "SiglipImageProcessor",
        "do_convert_rgb": not image.deep,
        "do_resize": True,
        "size": {"shortest_edge": image.size} if crop else square,
        "resample": RESAMPLE[image.resample],
        **({"do_center_crop": True, "crop_size": square} if crop else {}),
        "do_rescale": not image.deep,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        **(_deep(image) if image.deep else {}),
    }


def _deep(image: ImageConfig) -> Tree:
    return {"input_data_format": "channels_first", OURS: {"channels": image.channels, "intensity": image.intensity}}


def read_pixels(folder: Path) -> Tree:
    """Return mean, std, resize, resample and intensity from a folder's processor file; {} where it has none."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            tree = read_json(folder / name)
            tree = tree.get("image_processor", tree)
            if "image_mean" in tree:
                return _pixels(tree)
    return {}


def _pixels(tree: Tree) -> Tree:
    size = tree.get("size")
    whole = isinstance(size, dict) and "height" in size and not tree.get("do_center_crop")
    resample = {number: name for name, number in RESAMPLE.items()}.get(tree.get("resample", 3), "bicubic")
    return {
        "mean": tree["image_mean"],
        "std": tree["image_std"],
        "resize": "squash" if whole else "crop",
        "resample": resample,
        **({"intensity": own["intensity"]} if isinstance(own := tree.get(OURS), dict) and "intensity" in own else {}),
    }
