"""The model card of an export: what it is, how it was trained, how good it was found to be, how to use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmclr import __version__
from mmclr.display.html import code, markdown
from mmclr.display.secrets import redact, redact_tree
from mmclr.display.terminal import one_line
from mmclr.errors import UserError
from mmclr.export import arrays
from mmclr.export.format import Format
from mmclr.export.image_pool import is_learnt
from mmclr.export.origin import Source
from mmclr.models.config import ImageConfig

CAPTIONS = """\
```python
from PIL import Image
from transformers import AutoModel, AutoProcessor

# its class is in captioner/modeling_captioner.py; where mmclr is installed, this will do instead:
# import mmclr.models.captioning.transformers_model
captioner = AutoModel.from_pretrained("{name}/captioner", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{name}")
inputs = processor(images={image}, return_tensors="pt")
print(processor.batch_decode(captioner.generate(**inputs, num_beams=4), skip_special_tokens=True))
```

From the Hub, take `huggingface_hub.snapshot_download("{name}")` for the folder's name."""
SEVERAL = """\
Several images of one item (a product, a study) become one embedding by `image_pool/`, attention over their features:

```python
from transformers import AutoModel

# its class is in image_pool/modeling_image_pool.py; with mmclr, mmclr.load("{name}").encode_images does all of it
pool = AutoModel.from_pretrained("{name}/image_pool", trust_remote_code=True)
item = pool(features[None])   # features [k, D] of its k images, as get_image_features gives them -> [1, D]
```"""
GRAPH = """\
Several images of one item (a product, a study) become one embedding by `image_pool.onnx`, attention over theirs:
image_embeds [n, k, D] of k images each and mask bool [n, k], which of these there are, give unit-norm embeddings."""
DEEP = """\
`pixels` are float32 [{channels}, H, W] in [0, 1]: of the stored numbers x, (x - low) / (high - low), cut at 0 and 1.
The intensity that the model was trained with, which says low and high, is `{intensity}`. Images are resized and
normalised after that. Where resampling overshoots, at hard edges, training cut at 0 and 1 once more, which other
libraries do not. `mmclr.load("{name}").encode_image` takes the stored numbers themselves, as arrays or files."""
INTENDED = """\
Finding images by text and texts by image, classification with class names as texts, and as a starting point for
training on other data. It was not made, and not tested, for decisions about people."""
LIMITS = """\
It knows what its training pairs show, with their gaps and prejudices; counting, negation, spatial relations and text
inside images are weak points of models of this kind. The numbers above hold for the data they were measured on."""


@dataclass(frozen=True)
class About:
    """Facts that a checkpoint does not say of itself."""

    results: Sequence[str | Path] = ()  # JSON files of evaluations
    license: str = ""


def write(folder: Path, source: Source, differences: dict[str, float], name: str, about: About, format: Format) -> None:
    """Write README.md into `folder`."""
    run, position = (
        redact_tree(_read(source.folder.parent / "config.yaml")),
        _read(source.folder.parent / "position.json"),
    )
    results = [_result(Path(path)) for path in about.results]
    config = source.model.config
    parameters = sum(p.numel() for p in source.model.parameters()) / 1e6
    lines = [
        f"---\n{yaml.safe_dump(_head(format, name.rpartition('/')[2], source, about, results), sort_keys=False)}---",
        f"# {markdown(name.rpartition('/')[2])}",
        f"An {_kind_of(config.image)}-text model with two encoders into one space of {config.embed} dimensions "
        f"({parameters:.1f} million parameters, {source.dtype}), trained with "
        f"[mmclr](https://pypi.org/project/mmclr) {__version__}.",
        "## Use",
        _use(format, name, source),
        *(["## Captions", _captions(name, config.image)] if source.captioner and format.captioner else []),
        *(["## Several images", _several(format).format(name=code(name))] if is_learnt(source.model) else []),
        "## Encoders",
        "\n".join([*_encoders(source), *_decoder(source)]),
        *(["## Training", "\n".join(_training(run, position, source.folder.name))] if run else []),
        *(["## Evaluation", _table(results)] if results else []),
        "## Intended use",
        INTENDED,
        "## Limits",
        LIMITS,
        "## Agreement with the checkpoint",
        _agreement(differences),
    ]
    (folder / "README.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def _kind_of(image: ImageConfig) -> str:
    return "image" if image.array is None else "array"


def _head(format: Format, name: str, source: Source, about: About, results: list[dict[str, Any]]) -> dict[str, Any]:
    image = source.model.config.image
    return {
        "library_name": format.library,
        **({"license": _label(about.license)} if about.license else {}),
        "pipeline_tag": "zero-shot-image-classification" if image.array is None else "feature-extraction",
        "tags": ["clip", f"{_kind_of(image)}-text", "mmclr"],
        **(
            {"model-index": [{"name": _label(name), "results": [_indexed(result) for result in results]}]}
            if results
            else {}
        ),
    }


def _indexed(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result as the Hub lists it beside a model."""
    known = {metric: value for metric, value in result["metrics"].items() if value is not None}
    return {
        "task": {"type": _label(result["task"])},
        "dataset": {"type": _label(result["dataset"]), "name": _label(result["dataset"])},
        "metrics": [{"type": _label(metric), "value": value} for metric, value in known.items()],
    }


def _label(text: str) -> str:
    """Return a text for the card's head, which is YAML there and may be read as HTML elsewhere."""
    return one_line(redact(text)).replace("<", "‹").replace(">", "›")


def _json(tree: Any) -> str:
    """Return JSON for a code span: none of it ends the span or is HTML."""
    return json.dumps(tree).translate({ord(c): f"\\u{ord(c):04x}" for c in "<>`"})


def _use(format: Format, name: str, source: Source) -> str:
    siglip = source.model.logit_bias is not None and source.model.config.image.foreign is not None
    image = source.model.config.image
    if image.array is not None:
        return arrays.use(format.arrays, code(name), '["a cat", "a dog"]', image)
    use = format.use.format(
        name=code(name),
        captions='["a cat", "a dog"]',
        image=_example(image),
        channels=image.channels,
        pad='"max_length"' if siglip else "True",
        head="sigmoid().flatten" if siglip else "softmax",
    )
    if not image.deep:
        return use
    said = _json(image.intensity) if image.intensity is not None else "the range of their type (uint8, uint16)"
    return f"{use}\n\n{DEEP.format(name=code(name), channels=image.channels, intensity=said)}"


def _several(format: Format) -> str:
    return GRAPH if format.library == "onnxruntime" else SEVERAL


def _example(image: ImageConfig) -> str:
    return "[pixels]" if image.deep else 'Image.open("image.png").convert("RGB")'


def _captions(name: str, image: ImageConfig) -> str:
    return CAPTIONS.format(name=code(name), image=_example(image))


def _encoders(source: Source) -> list[str]:
    image, text = source.model.config.image, source.model.config.text
    kinds = [
        f"{c.foreign.library} {_kind(c.foreign.architecture)}, pooled by {markdown(c.foreign.pool or 'its own pooler')}"
        if c.foreign
        else own
        for c, own in ((image, "ViT"), (text, "causal transformer"))
    ]
    bias = source.model.logit_bias
    seen = (
        f"- image: {_seeing(image, kinds[0])}; to evaluate: {image.resize}, {image.resample}, pixels minus "
        f"{_short(image.mean)} over {_short(image.std)}"
    )
    return [
        seen if image.array is None else arrays.encoder(image, _short),
        f"- text: {kinds[1]}, {text.context} tokens of {text.vocab}, width {text.width}, {text.layers} layers",
        f"- scale of the logits: {source.model.scale.item():.4g}"
        + (f", bias {bias.item():.4g}" if bias is not None else ""),
    ]


def _seeing(image: ImageConfig, kind: str) -> str:
    pixels = f"{image.size} px of {image.channels} channels"
    if (s := image.scatter) is not None:
        return (
            f"fixed wavelets (scattering transform, J {s.J}, L {s.L}) and {s.blocks} residual blocks, {pixels}, width "
            f"{image.width}"
        )
    return f"{kind}, {pixels} in patches of {image.patch}, width {image.width}, {image.layers} layers"


def _decoder(source: Source) -> list[str]:
    c = source.captioner.config.captioner if source.captioner else None
    if c is None:
        return []
    seen = f"what {c.queries} learnt queries take from the image" if c.queries else "all tokens of the image"
    return [
        f"- captions: {c.layers} decoder layers on top of the text encoder, which see {seen}; not part of the above"
    ]


def _kind(architecture: dict[str, Any]) -> str:
    return markdown(architecture.get("model_type", "tower"))


def _training(config: dict[str, Any], position: dict[str, Any], weights: str) -> list[str]:
    step, batch = position.get("step", 0), config["data"]["batch"]
    skipped = position.get("loader", {}).get("faults", {})
    init = config.get("init", {}).get("source")
    return [
        f"- data: `{_json(config['data']['train'])}`",
        f"- {step} steps of {batch} pairs ({step * batch} seen)"
        + (f"; averaged weights, decay {config['average']['decay']}" if weights == "average" else ""),
        *([f"- started from `{code(str(init))}`"] if init else []),
        f"- objectives: `{_json(config['objectives'])}`",
        f"- optimizer: `{_json(config['optim'])}`",
        f"- samples that could not be used: {markdown(json.dumps(skipped)) if skipped else 'none'}",
    ]


def _result(path: Path) -> dict[str, Any]:
    try:
        tree: dict[str, Any] = redact_tree(json.loads(path.read_text(encoding="utf-8")))
        metrics = {str(name): None if value is None else float(value) for name, value in tree["metrics"].items()}
        spans = {name: [float(low), float(high)] for name, (low, high) in filter(all, (tree.get("ci95") or {}).items())}
        return {**tree, "dataset": str(tree["dataset"]), "task": str(tree["task"]), "metrics": metrics, "ci95": spans}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--results {path}: not a result of mmclr eval or CLIP_benchmark ({error!r})") from None


def _table(results: list[dict[str, Any]]) -> str:
    rows = ["| data | task | measure | value | 95 % interval |", "|---|---|---|---|---|"]
    for result in results:
        for name, value in result["metrics"].items():
            interval = (result.get("ci95") or {}).get(name)
            span = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
            cells = " | ".join(map(markdown, (result["dataset"], result["task"], name)))
            shown = "" if value is None else f"{value:.4f}"
            rows.append(f"| {cells} | {shown} | {span} |")
    return "\n".join(rows)


def _agreement(differences: dict[str, float]) -> str:
    said = ", ".join(f"{key.replace('_', ' ')} {value:.2g}" for key, value in differences.items())
    return f"Largest differences, computed in float32: {said}. `parity.json` has them with the hashes of all files."


def _read(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
