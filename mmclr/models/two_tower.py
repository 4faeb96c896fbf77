"""The two towers with their projections and temperature: one module, one folder on disk.

The folder is a transformers CLIPModel folder as it stands (config.json, model.safetensors), plus the pixel
statistics in preprocessor_config.json and the tokenizer's files.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mmclr.config import check, to_tree
from mmclr.errors import UserError
from mmclr.models import clip
from mmclr.models.clip import ImageConfig, ModelConfig, TextConfig, TextTower, VisionTower


class TwoTower(nn.Module):
    """Image and text encoders into one unit sphere, and the scale of their dot products."""

    def __init__(self, config: ModelConfig, bias: bool = False) -> None:
        """Draw random weights; `bias` adds the learnt logit bias that sigmoid losses ask for."""
        super().__init__()
        clip.check_vocabulary(config.text)
        self.config = config
        self.vision_model = VisionTower(config.image)
        self.text_model = TextTower(config.text)
        self.visual_projection = nn.Linear(config.image.width, config.embed, bias=False)
        self.text_projection = nn.Linear(config.text.width, config.embed, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(config.scale)))
        self.logit_bias = nn.Parameter(torch.tensor(config.bias)) if bias else None
        clip.initialise(self.vision_model, self.text_model, [self.visual_projection, self.text_projection])

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, a scalar in float32, clamped to config.max_scale."""
        return self.logit_scale.float().exp().clamp(max=self.config.max_scale)

    def encode_image(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised pixels [b, 3, H, W] -> unit-norm embeddings [b, D] in float32."""
        return _unit(self.visual_projection(self.vision_model(pixels, keep)))

    def encode_text(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Ids [n, L] of which lengths [n] are valid -> unit-norm embeddings [n, D] in float32."""
        return _unit(self.text_projection(self.text_model(tokens, lengths)))

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 pixels [b, 3, H, W] -> floats with the model's mean and standard deviation taken out."""
        dtype = self.visual_projection.weight.dtype
        mean, std = (
            pixels.new_tensor(v, dtype=dtype).view(3, 1, 1) * 255
            for v in (self.config.image.mean, self.config.image.std)
        )
        return (pixels.to(dtype) - mean) / std

    def save(self, folder: str | Path) -> None:
        """Write config.json, preprocessor_config.json and model.safetensors."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(to_transformers(self.config), indent=2))
        (path / "preprocessor_config.json").write_text(json.dumps(preprocessor(self.config.image), indent=2))
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})

    @classmethod
    def load(cls, folder: str | Path) -> TwoTower:
        """Read a folder that `save` or transformers' CLIPModel.save_pretrained wrote."""
        path = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (path / name).is_file():
                raise UserError(
                    f"{path}: no {name} there; name a checkpoint's model/ folder or a transformers CLIP folder"
                )
        weights = read_weights(path / "model.safetensors")
        bias = json.loads((path / "config.json").read_text()).get("mmclr", {}).get("logit_bias")
        if bias is not None:  # CLIPModel has no place for it among its weights
            weights.setdefault("logit_bias", torch.tensor(float(bias)))
        model = cls(from_transformers(path), bias="logit_bias" in weights)
        load_weights(model, weights, str(path))
        return model.eval()


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, dim=-1)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy it again") from None


def load_weights(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Fill `model`; a name or shape that differs is one error that names the first few of each kind."""
    own = model.state_dict()
    weights = {name: value for name, value in weights.items() if not name.endswith(".position_ids")}
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [
        f"{name} is {list(weights[name].shape)} there and {list(own[name].shape)} here"
        for name in own.keys() & weights.keys()
        if weights[name].shape != own[name].shape
    ]
    faults = (
        [f"lacks {_some(missing)}"] * bool(missing) + [f"has unknown {_some(extra)}"] * bool(extra) + sorted(shapes)[:2]
    )
    if faults:
        raise UserError(f"{where}: weights of another architecture: it {'; '.join(faults)}")
    model.load_state_dict(weights)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# transformers' name for each field of ours
_VISION = {"size": "image_size", "patch": "patch_size", "width": "hidden_size", "layers": "num_hidden_layers",
           "heads": "num_attention_heads", "mlp": "intermediate_size", "activation": "hidden_act",
           "eps": "layer_norm_eps"}  # fmt: skip
_TEXT = {"context": "max_position_embeddings", "vocab": "vocab_size", "bos": "bos_token_id", "eos": "eos_token_id",
         "pad": "pad_token_id", **{k: v for k, v in _VISION.items() if k not in ("size", "patch")}}  # fmt: skip


def to_transformers(config: ModelConfig) -> dict[str, Any]:
    """Return the model as transformers' CLIPConfig tree; what it has no word for lies under "mmclr"."""
    projection = {"projection_dim": config.embed}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        **projection,
        "logit_scale_init_value": math.log(config.scale),
        "vision_config": {"model_type": "clip_vision_model", **projection, **_rename(config.image, _VISION)},
        "text_config": {"model_type": "clip_text_model", **projection, **_rename(config.text, _TEXT)},
        "mmclr": {"scale": config.scale, "bias": config.bias, "max_scale": config.max_scale, "preset": config.preset},
    }


def from_transformers(folder: Path) -> ModelConfig:
    """Return the model that a transformers CLIP folder describes."""
    tree = json.loads((folder / "config.json").read_text())
    if tree.get("model_type") != "clip":
        raise UserError(f"{folder}: a {tree.get('model_type')!r} model; only model_type 'clip' is read here")
    defaults = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}  # transformers' own, where a key is left out
    image = _read(tree["vision_config"], _VISION, {"image_size": 224, "patch_size": 32, "hidden_size": 768,
        "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, **defaults})  # fmt: skip
    text = _read(tree["text_config"], _TEXT, {"max_position_embeddings": 77, "vocab_size": 49408, "hidden_size": 512,
        "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048, "bos_token_id": 49406,
        "eos_token_id": 49407, "pad_token_id": 1, **defaults})  # fmt: skip
    pixels = _read_pixels(folder)
    ours = {
        key: value for key, value in tree.get("mmclr", {}).items() if key in ("preset", "scale", "bias", "max_scale")
    }
    scale = math.exp(tree.get("logit_scale_init_value", math.log(1 / 0.07)))
    return check(
        ModelConfig,
        {"embed": tree["projection_dim"], "image": {**image, **pixels}, "text": text, "scale": scale, **ours},
        str(folder),
    )


def preprocessor(image: ImageConfig) -> dict[str, Any]:
    """Return the evaluation transform as transformers' CLIPImageProcessor reads it."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image.size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": image.size, "width": image.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }


def _rename(config: ImageConfig | TextConfig, names: dict[str, str]) -> dict[str, Any]:
    tree = to_tree(config)
    return {theirs: tree[ours] for ours, theirs in names.items()}


def _read(tree: dict[str, Any], names: dict[str, str], defaults: dict[str, Any]) -> dict[str, Any]:
    return {ours: tree.get(theirs, defaults[theirs]) for ours, theirs in names.items()}


def _read_pixels(folder: Path) -> dict[str, Any]:
    """Return mean and std from whichever processor file the folder has; CLIP's own where it has none."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            tree = json.loads((folder / name).read_text())
            tree = tree.get("image_processor", tree)
            if "image_mean" in tree:
                return {"mean": tree["image_mean"], "std": tree["image_std"]}
    return {}


def with_tokenizer(config: ModelConfig, vocab: int, bos: int, eos: int, pad: int) -> ModelConfig:
    """Return the config with the tokenizer's ids, where it leaves them open (vocab 0)."""
    if config.text.vocab:
        return config
    return dataclasses.replace(config, text=dataclasses.replace(config.text, vocab=vocab, bos=bos, eos=eos, pad=pad))
