"""The stream: every sample once, the same to the bit at any number of ranks and workers, from any place."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from mmclr.config import ConfigError, load
from mmclr.data.stream.batch_builder import Start
from mmclr.data.stream.loader import DataConfig
from mmclr.errors import UserError
from tests.data.made import RANDOM, rows, take, write_shards


def stream(make_loader, count, state=None, world=1, **settings):
    """The rows of `count` global batches, those of the ranks one after the other; and the state after them."""
    ranks = []
    for rank in range(world):
        loader = make_loader(rank=rank, world=world, **{**RANDOM, **settings})
        if state:
            loader.load_state_dict(state)
        ranks.append([rows(batch) for batch in take(loader, count)])
        after = loader.state_dict()
    return [row for parts in zip(*ranks) for part in parts for row in part], after


def test_each_epoch_has_each_sample_once(make_loader):
    loader = make_loader(batch=10)
    indices = torch.cat([batch.index for batch in take(loader, 53)]).tolist()
    assert loader.samples == 53
    for epoch in range(10):
        assert sorted(indices[53 * epoch : 53 * (epoch + 1)]) == list(range(53))
    assert loader.position == 530
    assert loader.epoch == 10


def test_padded_tail(make_loader):
    loader = make_loader(batch=10, tail="pad")
    assert loader.batches_per_epoch == 6
    batches = take(loader, 12)
    for epoch in (batches[:6], batches[6:]):
        weights = torch.cat([b.weights for b in epoch])
        index = torch.cat([b.index for b in epoch])
        assert sorted(index[weights == 1].tolist()) == list(range(53))
        assert (weights == 0).sum() == 7
        assert set(index[weights == 0].tolist()) == {-1}
    assert loader.epoch == 2


def test_batch_matches_what_is_stored(make_loader, tokenizer):
    batch = take(make_loader(label="json:number"), 1)[0]
    assert batch.pixels.shape == (12, 3, 24, 24)
    assert batch.pixels.dtype == torch.uint8
    for row, key in enumerate(batch.keys):
        assert int(key) == batch.index[row] == batch.label[row]
        text = f"image number {int(key)}"
        assert batch.tokens[row, : batch.lengths[row]].tolist() == tokenizer.encode([text])[0]
    assert batch.tokens.shape[1] == batch.lengths.max()
    assert len(set(batch.image_id.tolist())) == 12


def test_picks_up_where_it_was_left_in_one_process(make_loader):
    expected, _ = stream(make_loader, 6)
    loader = make_loader(**RANDOM)
    assert [row for _ in range(3) for batch in take(loader, 2) for row in rows(batch)] == expected


@pytest.mark.parametrize(("world", "workers"), [(1, 1), (2, 0), (3, 2)])
def test_ranks_and_workers_do_not_change_anything(make_loader, world, workers):
    expected, state = stream(make_loader, 6)
    got, after = stream(make_loader, 6, world=world, workers=workers)
    assert got == expected
    assert after == state


def test_kill_and_resume_anywhere(make_loader, shards, tmp_path):
    """SIGKILL in the middle; going on at any world size with any number of workers equals the unbroken run."""
    expected, _ = stream(make_loader, 14)
    log, position = tmp_path / "rows.jsonl", tmp_path / "position.json"
    code = f"""
import json, os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from mmclr import parallel
from mmclr.config import load
from mmclr.data.stream.loader import DataConfig, Loader
from mmclr.data.samples.text import Tokenizer
from tests.data.made import RANDOM, rows


tokenizer = Tokenizer.train([f"image number {{n}}" for n in range(100)], size=600, context=16)


loader = Loader(load(DataConfig, {{"train": {shards!r}, "batch": 12, "workers": 2, **RANDOM}}), tokenizer, 24, 1)
with open({str(log)!r}, "w") as out:
    for batch in loader:
        print(json.dumps(rows(batch)), file=out, flush=True)
        open({str(position)!r} + ".new", "w").write(json.dumps(loader.state_dict()))
        os.replace({str(position)!r} + ".new", {str(position)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while not log.exists() or log.read_text().count("\n") < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    state = json.loads(position.read_text())
    done = state["position"] // 12
    before = [json.loads(line) for line in log.read_text().splitlines()[:done]]
    before = [(key, pixels, tuple(ids), *rest) for batch in before for key, pixels, ids, *rest in batch]
    left = max(14 - done, 1)
    expected, _ = stream(make_loader, done + left)
    assert before == expected[: 12 * done]
    for world in (1, 2, 3):
        for workers in (0, 1, 4):
            after, _ = stream(make_loader, left, state=state, world=world, workers=workers)
            assert after == expected[12 * done :], (world, workers)


def test_another_batch_size_keeps_the_epoch_exact(make_loader):
    first = make_loader(batch=12)
    seen = [i for batch in take(first, 3) for i in batch.index.tolist()]
    second = make_loader(batch=7)
    second.load_state_dict(first.state_dict())
    seen += [i for batch in take(second, 10) for i in batch.index.tolist()]
    assert sorted(seen[:53]) == list(range(53))
    assert sorted(seen[53:106]) == list(range(53))


@pytest.mark.parametrize("batch", [12, 10])
def test_padded_epochs_resume_at_other_worlds(make_loader, batch):
    settings = {"tail": "pad", "batch": batch - batch % 2}
    expected, _ = stream(make_loader, 12, **settings)
    half, state = stream(make_loader, 7, **settings)
    for world in (1, 2):
        after, _ = stream(make_loader, 5, state=state, world=world, workers=world - 1, **settings)
        assert half + after == expected


def test_a_worker_that_is_spawned_makes_the_same(make_loader):
    """Where there is no fork, workers get the loader pickled."""
    made = make_loader(**RANDOM).assembler
    copy = pickle.loads(pickle.dumps(made))
    assert rows(copy(Start(24, 12))) == rows(made(Start(24, 12)))


def test_state_goes_only_with_its_data(make_loader, tmp_path):
    state = make_loader().state_dict()
    with pytest.raises(UserError, match="seed"):
        make_loader(seed=2).load_state_dict(state)
    other = write_shards(tmp_path / "other", [53])
    with pytest.raises(UserError, match="shards"):
        make_loader(train=other).load_state_dict(state)


def test_state_is_a_few_numbers(make_loader):
    loader = make_loader()
    take(loader, 3)
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["position"] == 36
    assert len(json.dumps(state)) < 200


def test_cache_changes_nothing(make_loader):
    expected, _ = stream(make_loader, 14)
    assert stream(make_loader, 14, cache="decoded")[0] == expected
    assert stream(make_loader, 14, cache="decoded", cache_bytes=100_000)[0] == expected
    assert stream(make_loader, 6, cache="decoded", workers=2)[0] == expected[:72]


def test_mixture(make_loader, tmp_path):
    parts = {
        name: {"urls": write_shards(tmp_path / name, [size], start), "weight": weight}
        for name, size, start, weight in (("a", 10, 0, 1), ("b", 20, 100, 2), ("c", 30, 200, 5))
    }
    loader = make_loader(train=parts, batch=16)
    keys = [int(key) // 100 for batch in take(loader, 20) for key in batch.keys]
    assert Counter(keys) == {0: 40, 1: 80, 2: 200}
    assert loader.shares() == {"a": 0.125, "b": 0.25, "c": 0.625}
    assert [stream(make_loader, 6, train=parts, world=w)[0] for w in (2, 3)] == [
        stream(make_loader, 6, train=parts)[0]
    ] * 2


def test_several_captions_and_views(make_loader):
    loader = make_loader(captions=2, caption="json:tags", views=2)
    batch = take(loader, 1)[0]
    assert batch.tokens.shape[0] == batch.lengths.shape[0] == 24
    assert batch.views.shape == (12, 2, 3, 24, 24)
    assert not torch.equal(batch.views[:, 0], batch.views[:, 1])
    ids = [tuple(batch.tokens[i, : batch.lengths[i]].tolist()) for i in range(24)]
    assert all(ids[2 * i] != ids[2 * i + 1] for i in range(12))  # both tags, in some order


def test_views_tell_where_they_lie(make_loader):
    """Images are a plane of colour over the place, so that the pixels of a view tell its box."""
    flipped = {"crop_scale": [0.2, 0.6], "flip": 0.5}
    batch = take(make_loader(views=3, view_augment=flipped, bucket=True), 1)[0]
    assert batch.view_boxes.shape == (12, 3, 4)
    left, top, right, bottom = batch.view_boxes.unbind(-1)
    assert (top < bottom).all()
    assert 0 < (right < left).sum() < 36  # mirrored ones
    # 40 x 32 pixels whose red is 3 x + y + 7 n, less multiples of 256: the slope along a view's rows and columns
    red = batch.views[:, :, 0].double()
    across, down = (red[:, :, 12, 20] - red[:, :, 12, 3]), (red[:, :, 20, 12] - red[:, :, 3, 12])
    wrapped = lambda x: (x + 128) % 256 - 128  # noqa: E731
    torch.testing.assert_close(wrapped(across), 3 * 40 * (right - left).double() * 17 / 24, rtol=0, atol=2)
    torch.testing.assert_close(wrapped(down), 32 * (bottom - top).double() * 17 / 24, rtol=0, atol=2)


def test_further_forms_of_captions(make_loader):
    """They are edits of the first caption, the captions themselves are what they were, with sorted rows too."""
    edits = {"probability": 1.0, "delete": 0.5, "swap": 0.0}
    settings = {"captions": 2, "caption": "json:tags", "bucket": True}
    plain = take(make_loader(**settings), 1)[0]
    batch = take(make_loader(text_views=3, view_edits=edits, **settings), 1)[0]
    ids = lambda rows, lengths: [row[:n].tolist() for row, n in zip(rows, lengths)]  # noqa: E731
    assert ids(batch.tokens, batch.lengths) == ids(plain.tokens, plain.lengths)
    assert batch.text_view_tokens.shape[:2] == batch.text_view_lengths.shape == (12, 3)
    for row in range(12):  # a tag is one word, which no edit takes away
        assert ids(batch.text_view_tokens[row], batch.text_view_lengths[row]) == 3 * ids(
            batch.tokens[2 * row : 2 * row + 1], batch.lengths[2 * row :]
        )
    batch = take(make_loader(text_views=2, view_edits=edits), 1)[0]
    assert (batch.text_view_lengths <= batch.lengths[:, None]).all()
    assert (batch.text_view_lengths < batch.lengths[:, None]).any()
    assert (batch.text_view_lengths[:, 0] != batch.text_view_lengths[:, 1]).any()
    parts = batch.split(5)
    assert torch.equal(torch.cat([part.text_view_tokens for part in parts]), batch.text_view_tokens)
    assert plain.text_view_tokens is None


def test_bucket_sorts_rows_only(make_loader):
    plain, sorted_ = take(make_loader(), 1)[0], take(make_loader(bucket=True), 1)[0]
    assert sorted_.lengths.tolist() == sorted(plain.lengths.tolist())
    assert sorted(rows(plain)) == sorted(rows(sorted_))


def test_a_worker_that_dies_is_replaced(make_loader):
    expected, _ = stream(make_loader, 12)
    others = {child.pid for child in multiprocessing.active_children()}
    loader = make_loader(workers=2, **RANDOM)
    batches = iter(loader)
    got = rows(next(batches))
    workers = {child.pid for child in multiprocessing.active_children()} - others
    os.kill(min(workers), signal.SIGKILL)
    for _ in range(11):
        got += rows(next(batches))
    batches.close()
    assert got == expected
    assert loader.ledger.restarts == 1
    assert "replaced" in loader.ledger.lines()[-1]


def test_bad_settings(make_loader, shards, tmp_path):
    with pytest.raises(UserError, match="larger than the data: 53"):
        make_loader(batch=54)
    with pytest.raises(UserError, match="divided among 5"):
        make_loader(world=5)
    with pytest.raises(UserError, match="no shard matches"):
        make_loader(train=str(tmp_path / "*.tar"))
    with pytest.raises(UserError, match="no such file"):
        make_loader(train=str(tmp_path / "{0..3}.tar"))
    with pytest.raises(UserError, match="allow_pipe"):
        make_loader(train="pipe:cat x.tar")
    with pytest.raises(
        UserError, match="no sample has caption; name one .*members: json, png, txt; fields of the json: number, title"
    ):
        make_loader(caption="caption")
    for wrong, words in (
        ({"batch": 0}, "batch must be at least 1"),
        ({"augment": {"flip": 2}}, "augment: flip is a probability"),
        ({"augment": {"flop": 1}}, "did you mean flip"),
        ({"train": {"a": {"urls": shards, "weight": 0}}}, "weight must be above 0"),
        ({"train": {"a": {"urls": shards}, "b": {"urls": shards}}, "tail": "pad"}, "one source"),
        ({"caption": {}}, "caption needs a field"),
    ):
        with pytest.raises(ConfigError, match=words):
            load(DataConfig, {"train": shards, **wrong})
