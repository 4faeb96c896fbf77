"""Less memory, fewer patches, compiled blocks: what each leaves the same."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from mmclr.config import ConfigError, check, load
from mmclr.errors import UserError
from mmclr.features.student import Student
from mmclr.models.activation_checkpointing import recompute
from mmclr.models.compile import compile_blocks
from mmclr.models.config import ModelConfig
from mmclr.models.resolve import resolve
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train.run import RunConfig
from mmclr.train.trainer import train
from tests.train.test_accumulate import TREE, make_batch, make_step

FINAL = "patch_dropout={first: 0.5, last: 0, begin: 0.7, end: 0.7}"


def kept_for_the_backward(step, batch):
    """Return how many numbers a forward keeps, and the gradients."""
    seen = {}

    def keep(x):
        seen[x.untyped_storage().data_ptr()] = x  # kept, so that no address is used twice
        return x

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss, _ = step(batch, 0.5)
    loss.backward()
    own = {p.untyped_storage().data_ptr() for p in step.parameters()}
    count = sum(x.untyped_storage().nbytes() for address, x in seen.items() if address not in own)
    return count, {name: p.grad for name, p in step.named_parameters() if p.grad is not None}


def test_recomputed_blocks_give_the_same_gradients_and_keep_less():
    objectives, batch = {"clip": {}, "caption": {}}, make_batch(captions=2)
    plain, lean = make_step(objectives, 2), make_step(objectives, 2)
    recompute(lean.providers["student"].model)
    (much, expected), (little, found) = (kept_for_the_backward(step, batch) for step in (plain, lean))
    assert little < 0.4 * much
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize(("kind", "pool"), [("vit", "cls"), ("resnet", "pooler")])
def test_towers_of_transformers_recompute_or_say_that_they_cannot(kind, pool, tmp_path):
    import transformers as t

    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = {
        "vit": t.ViTConfig(**small, image_size=16, patch_size=8),
        "resnet": t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    }[kind]
    t.AutoModel.from_config(config).save_pretrained(tmp_path)
    image = {
        "size": 16,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "foreign": {"source": f"transformers:{tmp_path}", "pool": pool},
    }
    tree = {"embed": 8, "image": image, "text": TREE["text"]}
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(TwoTower(with_tokenizer(resolve(check(ModelConfig, tree)), 90, 1, 2, 2)).train())
    if kind == "resnet":
        with pytest.raises(UserError, match="activation_checkpointing: the image tower"):
            recompute(models[1])
        return
    recompute(models[1])
    pixels = torch.randn(4, 3, 16, 16)
    for model in models:
        model.encode_image(pixels).sum().backward()
    for p, q in zip(*(model.vision_model.parameters() for model in models)):
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad)


def test_the_last_stage_sees_all_patches_also_after_a_resume(settings, tmp_path, monkeypatch):
    seen, keep = [], Student._keep
    monkeypatch.setattr(Student, "_keep", lambda self, batch: note(seen, keep(self, batch)))
    more = [*settings, FINAL, "steps=10", "save.every_steps=1", "save.keep=0", "diagnose_every=0"]
    whole = train(load(RunConfig, "debug.yaml", more), quiet=True)
    assert seen == [8] * 7 + [None] * 3  # of 16 patches
    seen.clear()
    start = tmp_path / "run" / "checkpoints" / "step-00000006"
    again = train(load(RunConfig, "debug.yaml", [*more, f"resume={start}", f"out={tmp_path / 'again'}"]), quiet=True)
    assert seen == [8] + [None] * 3
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (whole, again))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def note(seen, keep):
    seen.append(None if keep is None else keep.shape[-1])
    return keep


def test_a_share_of_patches_is_below_one():
    with pytest.raises(ConfigError, match="patch_dropout"):
        load(RunConfig, "debug.yaml", ["data.train=x", "patch_dropout=1"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch, while it compiles
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.parametrize("lean", [False, True])
def test_compiled_blocks_compute_the_same_on_any_lengths_without_new_graphs(lean):
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    steps = [make_step({"clip": {}}, 1).float() for _ in range(2)]
    model = steps[1].providers["student"].model
    if lean:
        recompute(model)
    compile_blocks(model)
    graphs = []
    for seed in range(5):
        batch = make_batch(10 + seed % 2)
        batch.lengths = torch.randint(2, 9, (len(batch.lengths),), generator=torch.Generator().manual_seed(seed))
        gradients = []
        for step in steps:
            step.zero_grad()
            torch.manual_seed(0)
            step(batch, 0.5)[0].backward()
            gradients.append({name: p.grad for name, p in step.named_parameters() if p.grad is not None})
        for name, gradient in gradients[0].items():
            if "k_proj.bias" not in name:  # its gradient is rounding
                error = (gradients[1][name] - gradient).norm() / gradient.norm().clamp(min=1e-3)
                assert error < 1e-4, (name, float(error))
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[2] == graphs[-1] > 0
