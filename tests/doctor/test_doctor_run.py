"""`mmclr doctor CONFIG`: what would stop a run, or waste it, is said before it starts."""

import functools
import io
import json
import tarfile

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mmclr.config import check
from mmclr.data.samples.text import Tokenizer
from mmclr.doctor import command as doctor
from mmclr.doctor import environment, forecast, probe, run
from mmclr.doctor.finding import Finding
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train.estimate import forecast as train_forecast
from mmclr.train.run import RunConfig

CPU = {"devices": [], "bf16": False, "memory": 16 * 2**30}


def png(size=32, seed=0):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def sample(n, **changes):
    members = {"png": png(seed=n), "txt": f"image number {n}".encode(), "json": json.dumps({"n": n}).encode()}
    return {name: data for name, data in {**members, **changes}.items() if data is not None}


def write(path, samples):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in enumerate(samples):
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


LOAD = functools.cache(Tokenizer.load)  # CLIP's vocabulary takes most of a second to build


@pytest.fixture
def examine(tmp_path, monkeypatch):
    """Return a function that checks a run on the shards in tmp_path and returns its lines by level."""
    monkeypatch.setattr(probe, "hardware", lambda: CPU)
    monkeypatch.setattr(Tokenizer, "load", LOAD)

    def lines(*overrides, urls="*.tar", **tree):
        base = {
            "data": {"train": str(tmp_path / urls), "batch": 8},
            "model": {"preset": "icons"},
            "steps": 10,
            "out": str(tmp_path / "out"),
        }
        config = tmp_path / "run.yaml"
        config.write_text(yaml.safe_dump({**base, **tree}))
        out = {}
        for finding in run.check(str(config), overrides):
            out.setdefault(finding.level, []).append(str(finding))
        return out

    return lines


def test_a_good_run(examine, tmp_path):
    for shard in range(2):
        write(tmp_path / f"{shard}.tar", [sample(20 * shard + n) for n in range(20)])
    found = examine()
    assert set(found) == {"ok"}
    text = "\n".join(found["ok"])
    for part in (
        "2 shards of train open and are whole",
        "40 samples, each with an image and a caption",
        "40 samples from all shards decode",
        "32 in the middle; the model sees 32",
        "10 steps of 8 pairs: 80 pairs, 2 epochs of 40 samples",
    ):
        assert part in text
    assert not (tmp_path / "out").exists(), "a check leaves the run's folder alone"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.bacth=4"], "data.bacth: unknown key; did you mean batch?"),
        (["objectives.clpi.weight=1"], "there is no objective 'clpi'; did you mean clip?"),
        (["epochs=3", "steps=4"], "set exactly one of steps, epochs, samples"),
        (["tokenizer=nowhere"], "nowhere: no tokenizer.json there"),
        (["data.batch=41"], "data.batch=41 is larger than the data: 40 usable samples"),
        (["data.caption=json:title"], "data.caption=json:title: no sample has it; name one that is there"),
        (["data.caption=caption"], "no sample has caption; name one that is there; members: json, png, txt"),
        (["precision=fp16"], "it needs a GPU"),
    ],
)
def test_what_stops_a_run_is_broken(examine, tmp_path, overrides, line):
    write(tmp_path / "0.tar", [sample(n) for n in range(40)])
    assert any(line in broken for broken in examine(*overrides)["BROKEN"])


def test_models_that_a_run_begins_with(examine, tmp_path):
    write(tmp_path / "0.tar", [sample(n) for n in range(40)])
    tokenizer = Tokenizer.load("clip", 16)
    words = {"vocab": tokenizer.vocab_size, "bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
    model = check(ModelConfig, {"preset": "icons", "text": words})
    TwoTower(model).save(tmp_path / "trained")
    tokenizer.save(tmp_path / "trained")
    there = f"init.source={tmp_path / 'trained'}"
    assert any("init.source" in line and line.endswith("there") for line in examine(there)["ok"])
    (wrong,) = examine(there, "model.image.layers=1")["BROKEN"]
    assert "is of another architecture; set model.image.layers=4" in wrong
    (lost,) = examine(f"init.source={tmp_path / 'nowhere'}")["BROKEN"]
    assert "nowhere" in lost
    (lost,) = examine(f"teacher={tmp_path / 'nowhere'}")["BROKEN"]
    assert "nowhere" in lost
    (lost,) = examine("model.preset=transformers:no/where")["BROKEN"]
    assert "transformers:no/where: neither a folder here nor in the Hub's cache" in lost


def test_missing_and_foreign_shards_are_all_named(examine, tmp_path):
    write(tmp_path / "0.tar", [sample(n) for n in range(9)])
    (tmp_path / "1.tar").write_bytes(b"not a tar file at all " * 100)
    broken = examine(urls="{0..9}.tar")["BROKEN"]
    assert any("1.tar: not a tar file" in line for line in broken)
    assert any("2.tar: no such file" in line for line in broken)
    assert broken[-1] == "BROKEN  4 more shards that cannot be opened"
    assert len(broken) == 6
    assert "matches" in examine(urls="nowhere/*.tar")["BROKEN"][0]


def test_truncated_shard_is_named_and_its_loss_counted(examine, tmp_path):
    write(tmp_path / "0.tar", [sample(n) for n in range(20)])
    whole = (tmp_path / "0.tar").read_bytes()
    with tarfile.open(tmp_path / "0.tar") as tar:
        (cut,) = [member for member in tar if member.name == "0015.png"]
    (tmp_path / "0.tar").write_bytes(whole[: cut.offset_data + 100])
    notes = examine()["note"]
    assert any("0.tar" in line and "copy it again" in line for line in notes)
    assert any("1 of 16 samples are left out: the shard ends inside the sample" in line for line in notes)


def test_faults_are_counted_by_reason_with_an_example(examine, tmp_path):
    samples = [sample(n) for n in range(40)]
    samples[3] = sample(3, txt=None)
    samples[5] = sample(5, png=b"\x89PNG\r\n\x1a\nbroken")
    samples[7] = sample(7, txt=b"  ")
    write(tmp_path / "0.tar", samples)
    found = examine("data.max_faults=0.2")
    assert any("1 of 40 samples are left out" in line and "0003" in line for line in found["note"])
    assert any("1 of 39 samples cannot be used" in line and "0005" in line for line in found["note"])
    assert any("caption is empty" in line and "0007" in line for line in found["note"])
    assert "BROKEN" not in found
    broken = examine("data.max_faults=0.01")["BROKEN"]
    assert len(broken) == 2
    assert all("data.max_faults=0.01 would end the run" in line for line in broken)
    assert all("data.faults=raise would end the run" in line for line in examine("data.faults=raise")["BROKEN"])


def test_waste_is_noted(examine, tmp_path):
    write(tmp_path / "0.tar", [sample(n, png=png(16), txt=b"many words " * 40) for n in range(16)])
    notes = examine("optim.warmup=500", "precision=bf16")["note"]
    assert any("16 in the middle; the model sees 32: most are enlarged" in line for line in notes)
    assert any("the end of 100% of them is cut off" in line for line in notes)
    assert any("optim.warmup=500 is longer than the run" in line for line in notes)
    assert any("precision: bf16" in line for line in notes)


def test_an_earlier_checkpoint_is_mentioned(examine, tmp_path):
    write(tmp_path / "0.tar", [sample(n) for n in range(16)])
    folder = tmp_path / "out" / "checkpoints" / "step-00000005"
    folder.mkdir(parents=True)
    (folder / "position.json").write_text('{"step": 5}')
    assert any("step-00000005 is there: the run goes on from it" in line for line in examine()["note"])
    assert "note" not in examine("resume=never")
    (folder / "position.json").write_text("")
    assert any("step-00000005 is not whole (position.json is damaged)" in line for line in examine()["BROKEN"])


def test_samples_are_spread_over_everything():
    assert run.spread(5, 10) == [0, 1, 2, 3, 4]
    picked = run.spread(10_001, 256)
    assert (picked[0], picked[-1], len(set(picked))) == (0, 10_000, 256)
    assert max(np.diff(picked)) <= 40


def config(**tree):
    return check(RunConfig, {"data": {"train": "x"}, "model": {"preset": "icons"}, "steps": 10, **tree})


@pytest.mark.parametrize("preset", ["icons", "ViT-Ti/16"])
def test_activations_are_what_autograd_keeps(preset):
    """Oracle: the bytes of the tensors that autograd saves, one more sample at a time."""
    conf = with_tokenizer(check(ModelConfig, {"preset": preset}), 600, 0, 1, 1)
    model, length = TwoTower(conf), 12

    def saved(batch):
        seen = {}
        pixels = torch.randint(0, 256, (batch, 3, conf.image.size, conf.image.size), dtype=torch.uint8)
        tokens, lengths = torch.randint(0, 600, (batch, length)), torch.full((batch,), length)
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def keep(t):
            if t.untyped_storage().data_ptr() not in own:
                seen[t.untyped_storage().data_ptr()] = t  # kept, so that no address is used twice
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            kept = model.encode_image(model.normalise(pixels)), model.encode_text(tokens, lengths)
        return sum(t.untyped_storage().nbytes() for t in seen.values()) if kept else 0

    each = (saved(6) - saved(2)) / 4
    assert train_forecast.activations(config(model={"preset": preset}), 1, length, 4.0) == pytest.approx(each, rel=0.15)


def test_memory_counts_weights_states_and_batches():
    small, large = config(data={"train": "x", "batch": 64}), config(data={"train": "x", "batch": 1 << 20})
    assert forecast.memory(small, 10_000_000, 8, CPU).level == "ok"
    assert "10.0 M weights" in forecast.memory(small, 10_000_000, 8, CPU).what
    assert "out of memory" in forecast.memory(large, 10_000_000, 8, CPU).why
    assert (
        "of 80 GiB on each of 2 GPUs"
        in forecast.memory(
            small, 10_000_000, 8, {"devices": [["H100", 80 * 2**30]] * 2, "bf16": True, "memory": None}
        ).what
    )
    assert forecast.memory(small, 3_000_000_000, 8, CPU).level == "note", "48 GB of weights and states"


def test_command_checks_the_environment_first(examine, tmp_path, monkeypatch, capsys):
    write(tmp_path / "0.tar", [sample(n) for n in range(16)])
    examine()
    monkeypatch.setattr(environment, "check", lambda fix: iter([Finding("ok", f"environment {bool(fix)}")]))
    assert doctor.main([str(tmp_path / "run.yaml"), "data.batch=4", "--fix"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "ok      environment True"
    assert any("10 steps of 4 pairs" in line for line in out)
    assert doctor.main([str(tmp_path / "run.yaml"), "data.batch=400"]) == 1
    monkeypatch.setattr(environment, "check", lambda fix: iter([Finding("BROKEN", "torch")]))
    assert doctor.main([str(tmp_path / "run.yaml")]) == 1
    assert "was not checked" in capsys.readouterr().out


def array(steps, channels=2):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((steps, channels), np.float32))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("length", "says"),
    [
        (32, [("ok", "arrays have 11 to 30 steps, 20 in the middle; the model sees 32")]),
        (16, [("note", "the model sees 16"), ("note", "of 70% of them a window is seen")]),
        (64, [("note", "half of it or more is padding")]),
    ],
)
def test_arrays_and_what_the_model_sees_of_them(examine, tmp_path, length, says):
    write(tmp_path / "0.tar", [sample(n, png=None, npy=array(11 + n)) for n in range(20)])
    found = examine(f"model.image.array={{channels: 2, length: {length}, patch: 4}}")
    assert "BROKEN" not in found
    for level, text in says:
        assert text in "\n".join(found[level])


def test_arrays_of_other_channels_are_broken(examine, tmp_path):
    write(tmp_path / "0.tar", [sample(n, png=None, npy=array(11 + n, 3)) for n in range(20)])
    (line,) = (line for line in examine("model.image.array={channels: 2, length: 16}")["BROKEN"] if "samples" in line)
    assert "an array [11, 3], and the model reads [time, 2]" in line
    assert "model.image.array" in line
