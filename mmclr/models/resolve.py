"""Read what a model's config leaves to folders: a preset that names one, and towers of other libraries.

A config is checked without opening or fetching anything; commands that go on to use it come here first.
"""

from __future__ import annotations

from typing import Any

from mmclr.config import ConfigError, check, merge, to_tree
from mmclr.models.config import ModelConfig
from mmclr.models.foreign.build import describe, other_channels
from mmclr.models.formats import find
from mmclr.models.presets import PRESETS


def resolve(config: ModelConfig) -> ModelConfig:
    """Return the config with all sizes in it: the same where nothing is left to folders. It may download.

    Raises UserError where a folder or name cannot be found or read, ConfigError where the whole does not fit together.
    """
    if config.open is None:
        return config
    tree: dict[str, Any] = config.written
    if not tree:
        raise ConfigError(f"{config.open} is to be read before values of the config are replaced: resolve it first")
    name = tree.get("preset")
    below = {} if not name or name in PRESETS else to_tree(find.read_config(find.find(name)))
    if below and other_channels(tree["image"], below["image"]):  # what was measured on other channels says nothing here
        below["image"] = {key: v for key, v in below["image"].items() if key not in ("mean", "std", "intensity")}
    filled = merge(below, {**tree, "preset": name if name in PRESETS else None})
    for part in ("image", "text"):
        foreign = filled[part].get("foreign")
        if foreign and foreign.get("source") and not foreign.get("architecture"):
            filled[part] = describe(part, filled[part])
    return check(ModelConfig, filled, "model")
