"""A model of arrays in an export: a class of its own, whose code lies beside its weights as a captioner's does."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmclr.config import to_tree
from mmclr.errors import UserError
from mmclr.models.clip import transformers_arrays
from mmclr.models.config import ImageConfig
from mmclr.models.foreign.libraries.transformers import quiet
from mmclr.models.formats.transformers import to_transformers
from mmclr.models.two_tower import TwoTower

CODE = "modeling_arrays"  # the file that machines without mmclr run
KIND = transformers_arrays.ArraysConfig.model_type

USE = """\
```python
import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

# its class is in modeling_arrays.py; where mmclr is installed, this will do instead:
# import mmclr.models.clip.transformers_arrays
model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
texts = tokenizer({captions}, padding=True, return_tensors="pt")
arrays = model.prepare([np.load("one.npy")])   # {shape}, as they were measured
with torch.no_grad():
    print(model(array_values=arrays, **texts).logits_per_array.softmax(-1))
```"""
GRAPHS = """\
```python
import onnxruntime

arrays = onnxruntime.InferenceSession("{name}/image.onnx")  # array_values [n, C, T] -> unit-norm embeddings
text = onnxruntime.InferenceSession("{name}/text.onnx")     # input_ids, attention_mask [n, L] -> unit-norm embeddings
```

array_values are {shape} with mean and standard deviation of each channel taken out (`preprocessor_config.json`), turned
to [C, T]: the middle {length} steps of longer ones, NaN behind the end of shorter ones."""


def form(model: TwoTower) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config.json and the tensors of an ArraysModel. Raises UserError where it cannot hold the text tower."""
    c = model.config
    if c.text.foreign is not None:
        raise UserError(
            "no class of transformers can hold this model: arrays beside a text tower of another library; "
            "`mmclr export onnx` can"
        )
    names = {"AutoConfig": transformers_arrays.ArraysConfig, "AutoModel": transformers_arrays.ArraysModel}
    tree = {
        "architectures": [transformers_arrays.ArraysModel.__name__],
        "model_type": KIND,
        "auto_map": {auto: f"{CODE}.{cls.__name__}" for auto, cls in names.items()},
        "mmclr": to_tree(c),
        "text": to_transformers(dataclasses.replace(c, image=ImageConfig()))["text_config"],
        "bias": model.logit_bias is not None,
    }
    return tree, {name: value.detach() for name, value in model.state_dict().items()}


def add_code(folder: Path) -> None:
    """Write the code of the class into the folder of an export."""
    shutil.copy(transformers_arrays.__file__, folder / f"{CODE}.py")


def holds(folder: Path) -> bool:
    """Whether a transformers folder is one of arrays."""
    return bool(json.loads((folder / "config.json").read_text())["model_type"] == KIND)


def load(folder: Path) -> Any:
    """Return the model of such a folder as transformers loads it, in float32."""
    from transformers import AutoModel

    with quiet():
        return AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def examples(c: ImageConfig) -> list[np.ndarray]:
    """Return arrays of several lengths, of full, longer, shorter and one step; or rows. The same every time."""
    assert c.array is not None
    length = c.array.length
    lengths = [1] * 4 if c.array.row else [length, 2 * length + 1, length // 2 + 1, 1]
    draw = np.random.default_rng(0)
    normal = [draw.normal(size=(steps, c.array.channels)) for steps in lengths]
    return [(np.array(c.mean) + np.array(c.std) * x).astype(np.float32) for x in normal]


def use(template: str, name: str, captions: str, c: ImageConfig) -> str:
    """Return what a card says of using the model; `template` is USE or GRAPHS."""
    assert c.array is not None
    shape = f"rows [{c.array.channels}]" if c.array.row else f"[time, {c.array.channels}]"
    return template.format(name=name, captions=captions, shape=shape, length=c.array.length)


def encoder(c: ImageConfig, short: Any) -> str:
    """Return the card's line of the tower; `short` writes numbers."""
    a = c.array
    assert a is not None
    what = (
        f"rows of {a.channels} values, a token each"
        if a.row
        else (f"{a.length} steps of {a.channels} channels in patches of {a.patch}")
    )
    return (
        f"- arrays: transformer, {what}, width {c.width}, {c.layers} layers; values minus {short(c.mean)} over "
        f"{short(c.std)}"
    )


def differing(own: Tensor, theirs: Tensor) -> float:
    """Return the largest difference of prepared arrays, which must end at the same steps."""
    if not torch.equal(own.isnan(), theirs.isnan()):
        return float("inf")
    return float((own - theirs).nan_to_num(0.0).abs().max())


def prepared(model: Any) -> dict[str, Any]:
    """Return how an exported model makes values of arrays, for parity."""

    def values(arrays: Sequence[Any]) -> Tensor:
        made: Tensor = model.prepare(arrays)
        return made

    return {"pixels": values}
