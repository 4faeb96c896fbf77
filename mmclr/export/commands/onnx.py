"""Write both encoders as graphs for onnxruntime, in float32 and, if asked, in int8."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmclr.data.samples.text import Tokenizer
from mmclr.display.terminal import say
from mmclr.errors import UserError
from mmclr.export import arrays, card, image_pool, parity
from mmclr.export.format import Format
from mmclr.export.origin import Source, add_arguments, written
from mmclr.models.formats.transformers import preprocessor, to_transformers
from mmclr.models.pooling import pool

EXTRA = "mmclr export onnx needs onnx, onnxscript and onnxruntime: pip install 'mmclr[onnx]'"

USE = """\
```python
import onnxruntime

image = onnxruntime.InferenceSession("{name}/image.onnx")   # pixel_values [n, {channels}, H, W] -> unit-norm embeddings
text = onnxruntime.InferenceSession("{name}/text.onnx")     # input_ids, attention_mask [n, L] -> unit-norm embeddings
```"""
FORMAT = Format(
    "image.onnx", "onnxruntime", USE, arrays.GRAPHS, tolerance=1e-4
)  # other kernels, other orders of summation


def main(argv: list[str]) -> None:
    """`mmclr export onnx CHECKPOINT OUT`."""
    parser = argparse.ArgumentParser(
        description="Write image.onnx and text.onnx (any number of rows, texts of any length up to the context) with "
        "the tokenizer, and image_pool.onnx where several images are pooled by attention; onnxruntime runs them and is "
        "compared with the checkpoint. Weights are float32.",
        epilog="example: mmclr export onnx runs/demo my-clip-onnx --int8 --measure-on 'shards/test-{00000..00009}.tar'",
    )
    add_arguments(parser)
    parser.add_argument("out", help="folder to write; it must not exist, or be an earlier export")
    parser.add_argument(
        "--int8", action="store_true", help="also image.int8.onnx and text.int8.onnx, a quarter as large"
    )
    parser.add_argument(
        "--measure-on",
        default="",
        metavar="SHARDS",
        help="find images by caption there, with both, to see what int8 costs",
    )
    args = parser.parse_args(argv)
    source = Source.open(args.checkpoint, args.weights, head=args.head)
    about = card.About(args.results, args.license)
    for name, value in write(source, Path(args.out), about, args.int8, args.measure_on).items():
        say(f"{name.replace('_', ' ')}: {value:.4g}")
    say(f"{args.out}: graphs that agree with {args.checkpoint}")


def write(
    source: Source, out: Path, about: card.About | None = None, int8: bool = False, shards: str = ""
) -> dict[str, float]:
    """Write a folder of graphs; return the largest differences to its source, and what int8 costs."""
    _check_extra()
    from mmclr.export import graphs
    from mmclr.export.int8 import cost, quantise

    with written(out, source) as partial:
        graphs.trace(source.model, partial)
        tree = to_transformers(source.model.config)
        scalars = {name: float(v) for name, v in source.model.state_dict().items() if name.startswith("logit_")}
        (partial / "config.json").write_text(json.dumps({**tree, "mmclr": {**tree["mmclr"], **scalars}}, indent=2))
        (partial / "preprocessor_config.json").write_text(json.dumps(preprocessor(source.model.config.image), indent=2))
        source.tokenizer.save(partial)
        pool.save(partial, source.model.config, {})
        differences = parity.compare(source, load(partial))
        if int8:
            quantise(partial)
            differences |= cost(source, load(partial), load(partial, ".int8"), shards)
        parity.insist(source, differences, partial, FORMAT.tolerance)
        card.write(partial, source, differences, out.name, about or card.About(), FORMAT)
    return differences


def load(folder: Path, kind: str = "") -> parity.Peer:
    """Return what onnxruntime makes of a folder's graphs; kind ".int8" opens the small ones."""
    _check_extra()
    import onnxruntime

    image, text = (
        onnxruntime.InferenceSession(folder / f"{name}{kind}.onnx", providers=["CPUExecutionProvider"])
        for name in ("image", "text")
    )
    tokenizer = Tokenizer.load(folder)

    def encode(texts: list[str]) -> Tensor:
        ids, lengths = tokenizer(texts)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return _run(text, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})

    return parity.Peer(
        image=lambda x: _run(image, {image.get_inputs()[0].name: x.numpy()}),
        text=encode,
        ids=tokenizer.encode,
        pixels={},
        pool=_load_pool(folder),
    )


def _load_pool(folder: Path) -> image_pool.Pool | None:
    """Return how the graph of a learnt pool pools; None where there is none."""
    import onnxruntime

    if not (folder / image_pool.GRAPH).is_file():
        return None
    session = onnxruntime.InferenceSession(folder / image_pool.GRAPH, providers=["CPUExecutionProvider"])
    return lambda x, there: _run(session, {"image_embeds": x.numpy(), "mask": there.numpy()})


def _run(session: Any, inputs: dict[str, np.ndarray]) -> Tensor:
    return torch.from_numpy(session.run(None, inputs)[0])


def _check_extra() -> None:
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise UserError(EXTRA)
