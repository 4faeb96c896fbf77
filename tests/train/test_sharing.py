"""What threads share: saves and evaluations beside a loader's thread change no ids, no batches and no weights."""

import copy
import itertools
import json
import threading
import time

import pytest
from safetensors.torch import load_file

from mmclr.config import load
from mmclr.data.samples.text import Tokenizer
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.train.checkpoints import state
from mmclr.train.processes import join
from mmclr.train.run import RunConfig
from mmclr.train.trainer import Trainer
from tests.train.runs import log, run_here

TEXTS = ["a red square at the left", "word " * 60, "", "\u65e5\u672c\u8a9e \U0001f600 <|endoftext|>"] * 8
SECONDS = [0.7, pytest.param(30.0, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def words():
    return Tokenizer.train(["a red square at the left", "a word"] * 9, size=600, context=12)


def beside(work, *others):
    """Do `work` while threads do `others` again and again; raise what failed in any of them."""
    ends, failed = threading.Event(), []

    def again_and_again(number, other):
        try:
            for n in itertools.count():
                if ends.is_set():
                    return
                other(f"{number}-{n % 3}")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=again_and_again, args=pair) for pair in enumerate(others)]
    for thread in threads:
        thread.start()
    try:
        return work()
    finally:
        ends.set()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]


@pytest.mark.parametrize("seconds", SECONDS)
def test_ids_are_those_of_a_quiet_run(words, seconds, tmp_path):
    """While it is saved twice and used by an evaluation; and after transformers set truncation and padding."""
    quiet, backend = words.encode(TEXTS), copy.deepcopy(words.backend)

    def encode():
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            assert words.encode(TEXTS) == quiet

    def save(name):
        words.save(tmp_path / name)

    beside(encode, save, save, lambda _: words(TEXTS), lambda _: words.decode(quiet[0]))
    for folder in tmp_path.iterdir():
        assert Tokenizer.load(folder).encode(TEXTS) == quiet
        assert json.loads((folder / "tokenizer.json").read_text())["truncation"] is None
    words.backend(TEXTS, padding="max_length", truncation=True, max_length=4)
    assert words.encode(TEXTS) == quiet
    words.backend = backend  # as it was, for the next test


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("cache", ["none", "decoded"])
def test_batches_are_those_of_a_quiet_run(words, shards, seconds, cache, tmp_path):
    """While its state is taken, its tokenizer saved, its ledger read and its samples looked at ahead."""
    config = load(DataConfig, {"train": shards, "batch": 12, "workers": 0, "cache": cache})

    def batches(loader, ends):
        for number, batch in enumerate(loader):
            yield batch.keys, batch.tokens.tolist(), batch.lengths.tolist(), batch.pixels.sum().item()
            if number >= 20 and time.monotonic() > ends:
                return

    busy = Loader(config, words, 24, 3)
    found = beside(
        lambda: list(batches(busy, time.monotonic() + seconds)),
        lambda name: words.save(tmp_path / name),
        lambda _: json.dumps(busy.state_dict()),
        lambda _: (busy.ledger.lines(), busy.shares(), time.sleep(0.001)),
    )
    quiet = batches(Loader(config, words, 24, 3), float("inf"))
    assert found == list(itertools.islice(quiet, len(found)))
    assert len(found) > 20


def test_saves_and_evaluations_change_no_weight(settings, shards, tmp_path):
    """A run that saves and evaluates in every step ends as one that does neither until its end, bit for bit."""
    busy = ["save.every_steps=1", f"evaluate={{set: {{data: '{shards}', every_steps: 1}}}}", "diagnose_every=1"]
    quiet = run_here([*settings, f"out={tmp_path / 'quiet'}"])
    other = run_here([*settings, *busy, f"out={tmp_path / 'busy'}"])
    for name in ("model/model", "average/model", "state/optimizer", "state/objectives"):
        ours, theirs = (load_file(x / f"{name}.safetensors") for x in (quiet, other))
        assert ours.keys() == theirs.keys()
        assert all(value.equal(theirs[key]) for key, value in ours.items()), name
    assert log(tmp_path / "busy", "step", "loss") == log(tmp_path / "quiet", "step", "loss")


def test_a_snapshot_stays_as_it_was_taken(settings):
    """What the checkpoint's thread writes shares nothing with the run that goes on."""
    with join.joined(1.0) as accelerator:
        trainer = Trainer(load(RunConfig, "debug.yaml", settings), accelerator)
        batches = iter(trainer.loader)
        trainer.take_step(next(batches))
        taken = state.take(trainer)
        tensors = {**taken.objectives, **taken.ema, **taken.optimizer}
        tensors |= {f"{n}.{k}": v for n, model in taken.models.items() for k, v in model.state_dict().items()}
        before = {name: value.clone() for name, value in tensors.items()}, json.dumps(dict(taken.position))
        for _ in range(3):
            trainer.take_step(next(batches))
            trainer.guard.spikes(1.0)
            trainer.saver.best["metric"] = "another"
        batches.close()
    assert all(value.equal(before[0][name]) for name, value in tensors.items())
    assert json.dumps(dict(taken.position)) == before[1]
