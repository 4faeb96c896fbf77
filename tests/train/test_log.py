"""What a run tells: its log, trackers, the progress line."""

import importlib.util
import json

import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from mmclr import parallel
from mmclr.config import ConfigError, load
from mmclr.train.logging import trackers
from mmclr.train.logging.clock import Clock
from mmclr.train.logging.log import Log
from mmclr.train.run import RunConfig
from mmclr.train.trainer import Trainer, train
from tests.train.runs import log


class Recorder(GeneralTracker):
    """A tracker that keeps what it is told."""

    name = "recorder"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self):
        super().__init__()
        self.rows, self.settings = {}, {}

    def start(self):
        pass

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **kwargs):
        self.rows.setdefault(step, {}).update(values)


def test_trackers_are_told_what_the_log_says(settings, shards, tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(trackers, "choose", lambda wanted: [recorder])
    more = [f"evaluate={{set: {{data: '{shards}'}}}}", "diagnose_every=12"]
    train(load(RunConfig, "debug.yaml", [*settings, *more]), quiet=True)
    assert recorder.settings["optim.lr"] == 1e-3
    assert recorder.settings["average.decay"] == 0.9
    assert [recorder.rows[step]["loss"] for step, _ in log(tmp_path / "run", "step", "loss")] == [
        loss for _, loss in log(tmp_path / "run", "step", "loss")
    ]
    (evaluated,) = log(tmp_path / "run", "eval")
    assert recorder.rows[12]["eval/set/image_retrieval_recall@1"] == evaluated[0]["set/image_retrieval_recall@1"]
    assert "batch/margin" in recorder.rows[12]


def test_shares_of_a_mixture_are_those_that_were_drawn(settings, shards, tmp_path):
    parts = {"many": {"urls": shards, "weight": 3}, "few": {"urls": shards.replace("00002}", "00000}"), "weight": 1}}
    run = load(RunConfig, "debug.yaml", [*settings, f"data.train={json.dumps(parts)}", "steps=8", "log_every=8"])
    train(run, quiet=True)
    (shares,) = log(tmp_path / "run", "shares")
    assert shares[0] == {"many": 0.75, "few": 0.25}


def test_tensorboard_where_it_is_installed(settings, tmp_path):
    there = importlib.util.find_spec("tensorboard") is not None
    assert trackers.choose("auto") == (["tensorboard"] if there else [])
    assert trackers.choose("none") == []
    train(load(RunConfig, "debug.yaml", [*settings, "steps=2"]), quiet=True)
    assert bool(list((tmp_path / "run").rglob("events.out.tfevents*"))) == there


def test_trackers_that_are_not_there_are_a_sentence(monkeypatch):
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [])
    with pytest.raises(ConfigError, match="trackers: wandb is not installed: pip install wandb"):
        trackers.choose("wandb")
    with pytest.raises(ConfigError, match="there is no 'wandbb'; did you mean wandb"):
        trackers.choose("wandbb")


def test_the_clock_leaves_out_what_is_not_training(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("mmclr.train.logging.clock.time.monotonic", lambda: now[0])
    clock = Clock(batch=10)

    def slow():
        for _ in range(4):
            now[0] += 0.5
            yield "batch"

    batches = slow()
    for _ in range(4):
        clock.wait(batches)
        now[0] += 1.5
    with clock.stopped():
        now[0] += 100
    row = clock.read(step=4, steps=10)
    assert row.pop("memory_gib") > 0
    assert row == {"samples_per_s": 5.0, "data_wait": 0.25, "left_s": 12.0}


def test_a_spike_is_logged_with_the_samples_of_all_processes(settings, tmp_path, monkeypatch):
    run = load(RunConfig, "debug.yaml", [*settings, "steps=2", "log_every=1", "diagnose_every=0"])
    trainer = Trainer(run, Accelerator())
    monkeypatch.setattr(trainer.guard, "spikes", lambda loss: trainer.taken == 2)
    say = parallel.say
    monkeypatch.setattr(parallel, "say", lambda text: [*say(text), "of-the-other"] if "\n" in text else say(text))
    trainer.fit(quiet=True)
    first, second = (json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert "spike" not in first
    assert second["spike"] == [*trainer.batch.keys, "of-the-other"]


def test_a_log_is_strict_json(tmp_path):
    row = {"step": 1, "loss": float("nan"), "batch": {"gap": float("inf"), "keys": ["a", float("-inf")], "n": 2}}
    with Log(tmp_path / "log.jsonl", 0) as out:
        out.write(row)

    def refuse(text):
        raise AssertionError(text)

    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    told = {"step": 1, "loss": None, "batch": {"gap": None, "keys": ["a", None], "n": 2}}
    assert json.loads(line, parse_constant=refuse) == told
