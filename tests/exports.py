"""Checkpoints for the tests of exports: small, random, with what a run leaves beside them."""

import json
import subprocess
import sys

import numpy as np
import torch
from PIL import Image

from mmclr.config import check
from mmclr.data.samples.text import Tokenizer
from mmclr.export import parity
from mmclr.models.config import ModelConfig
from mmclr.models.resolve import resolve
from mmclr.models.two_tower import TwoTower, with_tokenizer
from tests import bounds

READ_ALONE = """
import numpy as np, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoProcessor
captions, pad = json.loads(sys.argv[1]), json.loads(sys.argv[2])
image = Image.fromarray((np.arange(40 * 50 * 3) % 251).astype(np.uint8).reshape(40, 50, 3))
found = []
for folder in sys.argv[3:]:
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    plain = AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(text=captions, images=image, return_tensors="pt", padding=pad, truncation=True)
    inputs["pixel_values"] = plain(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = model(**inputs)
    found.append({"kind": type(model).__name__, "image": out.image_embeds.tolist(), "text": out.text_embeds.tolist(),
                  "logits": out.logits_per_image.tolist(), "ids": inputs["input_ids"].tolist(),
                  "pixels": inputs["pixel_values"].tolist()})
print(json.dumps(found))
"""
ICONS = {"preset": "icons", "image": {"layers": 2, "mean": [0.5, 0.4, 0.3]}}


def tokenizer(context=16):
    return Tokenizer.train(["cloud off", "music note"] * 10, 560, context)


def write_checkpoint(folder, tree=None, bias=True, names=("model", "average"), t=None):
    """Write a run with one checkpoint, whose averaged and last weights differ; return the run's folder."""
    t = t or tokenizer()
    step = folder / "checkpoints" / "step-00000001"
    config = with_tokenizer(resolve(check(ModelConfig, tree or ICONS)), t.vocab_size, t.bos_id, t.eos_id, t.pad_id)
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        model = TwoTower(config, bias=bias)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.02 * torch.randn_like(p))  # biases are zero at the start
        model.save(step / name)
        t.save(step / name)
    (step / "position.json").write_text(json.dumps({"step": 1}))
    return folder


def alone(code, *args, cwd):
    """Run Python code in a fresh process in which importing mmclr is an error; return the JSON that it prints last."""
    code = f"import json, sys\nsys.modules['mmclr'] = None\n{code}"
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def picture(size=(50, 40)):
    width, height = size
    values = (np.arange(height * width * 3) % 251).astype(np.uint8)
    return Image.fromarray(values.reshape(height, width, 3))


ROUNDING = bounds.bound(terms=512)  # of a tower in float32


def close(a, b, atol=ROUNDING):
    torch.testing.assert_close(torch.as_tensor(a), b, atol=atol, rtol=0)


def check_alone(sources, tmp_path, kind, pad=True):
    """Compare folders, as a process without mmclr reads them, with the models that they came from."""
    found = alone(READ_ALONE, json.dumps(parity.HARD_STRINGS), json.dumps(pad), *sources, cwd=tmp_path)
    for theirs, source in zip(found, sources.values(), strict=True):
        assert theirs["kind"] == kind
        model, words = source.model, source.tokenizer
        ids, lengths = words(parity.HARD_STRINGS)
        assert [row[:n] for row, n in zip(theirs["ids"], lengths.tolist())] == words.encode(parity.HARD_STRINGS)
        pixels = parity.prepare([picture()], model.config.image)
        assert torch.equal(torch.tensor(theirs["pixels"]), pixels)
        with torch.no_grad():
            image, text = model.encode_image(pixels), model.encode_text(ids, lengths)
            close(theirs["image"], image)
            close(theirs["text"], text)
            bias = model.logit_bias if kind == "SiglipModel" else 0.0
            close(
                theirs["logits"],
                image @ text.T * model.logit_scale.exp() + bias,
                ROUNDING * model.logit_scale.exp().item(),
            )


def foreign(tmp_path, image_pool, text_pool, image="ViT", text="Bert"):
    """Write a checkpoint of random foreign towers."""
    import transformers as t

    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    pixels = {"image_size": 16, "patch_size": 8}
    words = tokenizer()
    vocabulary = {"vocab_size": words.vocab_size, "max_position_embeddings": 16}
    parts = {
        "ViT": ("ViTModel", t.ViTConfig(**size, **pixels)),
        "Dinov2": ("Dinov2Model", t.Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, **pixels)),
        "Siglip": ("SiglipVisionModel", t.SiglipVisionConfig(**size, **pixels)),
        "Bert": ("BertModel", t.BertConfig(**size, **vocabulary)),
        "SiglipText": ("SiglipTextModel", t.SiglipTextConfig(**size, **vocabulary, projection_size=32)),
    }
    for name in (image, text):
        cls, config = parts[name]
        getattr(t, cls)(config).save_pretrained(tmp_path / name)

    def source(name, pool):
        kind = {"source": f"transformers:{tmp_path / name}", "pool": pool, "projection": not name.startswith("Siglip")}
        return {"foreign": kind}

    half = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize": "squash"}
    tree = {"embed": 32, "image": {"size": 16, **half, **source(image, image_pool)}, "text": source(text, text_pool)}
    return write_checkpoint(tmp_path / "run", tree, t=words)
