"""A tiny model folder and small sets in shards, made anew."""

import io
import json
import tarfile
import types

import numpy as np
import pytest
import torch
from PIL import Image

from mmclr.config import check
from mmclr.data.samples.text import Tokenizer
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer

COLOURS = ["red", "green", "blue", "yellow", "purple", "orange"]
SHAPES = ["square", "bar", "frame", "cross"]


def picture(number, size=(40, 40)):
    """Encode an image of its own: colour by number % 6, shape by number % 4, noise by number."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(200, 255, (size[1], size[0], 3), dtype=np.uint8)
    rows, columns = {"square": (8, 8), "bar": (16, 2), "frame": (4, 4), "cross": (2, 16)}[SHAPES[number % 4]]
    colour = np.array([[200, 30, 30], [30, 180, 30], [30, 30, 200], [220, 220, 30], [140, 30, 160], [230, 140, 20]])
    pixels[rows:-rows, columns:-columns] = colour[number % 6]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write_tar(path, samples):
    """Write {key: {extension: bytes}} as a shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples.items():
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def peer_features(folder, pictures, texts):
    """Unit features of transformers' own CLIPModel and tokenizer, from pixels of open_clip's own transform."""
    from open_clip import image_transform
    from transformers import AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    transform = image_transform(model.config.vision_config.image_size, is_train=False)
    pixels = torch.stack([transform(Image.open(io.BytesIO(p))) for p in pictures])
    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(pixels).pooler_output)
        text = model.text_projection(model.text_model(**tokens).pooler_output)
    return torch.nn.functional.normalize(image, dim=-1), torch.nn.functional.normalize(text, dim=-1)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


@pytest.fixture
def toy():
    """What the fixtures are made of."""
    return types.SimpleNamespace(
        COLOURS=COLOURS, SHAPES=SHAPES, picture=picture, write_tar=write_tar, peer_features=peer_features
    )


@pytest.fixture
def shards(tmp_path):
    """60 images in two ordinary shards, with txt, json and cls."""
    for part in (0, 1):
        samples = {}
        for i in range(30 * part, 30 * part + 30):
            colour, shape = COLOURS[i % 6], SHAPES[i % 4]
            facts = {"colour": colour, "tags": [colour, shape], "titles": [f"{colour} {shape}", f"{shape} no {i}"]}
            samples[f"p{i:03d}"] = {
                "png": picture(i),
                "txt": f"a {colour} {shape} {i}".encode(),
                "json": json.dumps(facts).encode(),
                "cls": str(i % 6).encode(),
            }
        write_tar(tmp_path / f"{part}.tar", samples)
    return str(tmp_path / "{0..1}.tar")


@pytest.fixture
def layout(tmp_path):
    """Return a function that writes CLIP_benchmark's layout: kind and members per sample."""

    def write(members, kind="", classnames=COLOURS, shards=2):
        root = tmp_path / "wds_toy"
        keys = list(members)
        for part in range(shards):
            chosen = {key: members[key] for key in keys[part::shards]}
            write_tar(root / "test" / f"{part}.tar", chosen)
        (root / "test" / "nshards.txt").write_text(f"{shards}\n")
        if kind:
            (root / "dataset_type.txt").write_text(kind)
        if classnames:
            (root / "classnames.txt").write_text("\n".join(classnames) + "\n")
        return root

    return write


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A random model of 32 pixels and 16 dimensions, with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("model")
    words = [f"an image of a {c} {s} no {i}" for i, (c, s) in enumerate((c, s) for c in COLOURS for s in SHAPES)]
    tokenizer = Tokenizer.train(words * 3, 600, context=20)
    tree = {
        "embed": 16,
        "image": {"size": 32, "patch": 8, "width": 32, "layers": 2, "heads": 2, "mlp": 64},
        "text": {"context": 20, "width": 32, "layers": 2, "heads": 2, "mlp": 64},
    }
    config = with_tokenizer(
        check(ModelConfig, tree), tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
    )
    torch.manual_seed(0)
    model = TwoTower(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embedding" in name:
                weight.mul_(20)  # so that random towers tell their inputs apart
    model.save(folder)
    tokenizer.save(folder)
    return folder
