"""Embeddings by content: shared by sets and suites, kept on disk, never taken for those of another model."""

import hashlib

import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.embed.store import DIGEST, Store
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.suites.classification import zero_shot
from mmclr.eval.suites.retrieval import retrieval


def digest(text):
    return hashlib.sha256(text.encode()).digest()[:DIGEST]


def test_rows_come_back_by_content_after_another_process_wrote_them(tmp_path):
    rows = torch.randn(5, 3)
    store = Store(tmp_path)
    store.add([digest(t) for t in "abcab"], rows)
    assert torch.equal(store.get([digest("c"), digest("a")]), rows[[2, 0]])  # the first of equal ones stays
    store.flush()
    store.add([digest("d")], torch.ones(1, 3))
    store.flush()
    again = Store(tmp_path)
    assert torch.equal(again.get([digest(t) for t in "bad"]), torch.cat([rows[[1, 0]], torch.ones(1, 3)]))
    again.flush()
    assert len(list(tmp_path.iterdir())) == 2  # nothing new, nothing written


def test_half_a_file_is_passed_over(tmp_path):
    store = Store(tmp_path)
    store.add([digest("a")], torch.ones(1, 3))
    store.flush()
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", whole.replace(digest("a"), digest("b"))):
        path.write_bytes(data)
        assert digest("a") not in Store(tmp_path)
        assert digest("b") not in Store(tmp_path)


def test_rows_of_files_are_mapped_and_new_ones_go_to_disk(tmp_path):
    rows = torch.randn(7, 4, dtype=torch.float64)
    store = Store(tmp_path)
    for n in range(7):
        store.add([digest(str(n))], rows[n : n + 1])
        store.flush()
    again = Store(tmp_path)
    assert torch.equal(again.get([digest(str(n)) for n in (6, 0, 3, 3)]), rows[[6, 0, 3, 3]])
    assert again.get([]).shape == (0, 4)


@pytest.fixture
def never(monkeypatch):
    """Make encoding an error."""

    def refuse(*_):
        raise AssertionError("computed again")

    return lambda embedder: [
        monkeypatch.setattr(embedder.model, name, refuse) for name in ("encode_image", "encode_text")
    ]


def test_a_second_process_and_another_suite_compute_no_picture(shards, model_folder, tmp_path, never):
    first = Embedder.load(model_folder, device="cpu", cache=tmp_path / "cache")
    numbers = retrieval.run(first, ordinary(shards)).metrics
    second = Embedder.load(model_folder, device="cpu", cache=tmp_path / "cache")
    second.texts(["blue", "green", "orange", "purple", "red", "yellow"])
    never(second)
    assert retrieval.run(second, ordinary(shards)).metrics == numbers
    zero_shot.run(second, ordinary(shards, caption="", label="json:colour"))


def test_other_weights_and_another_precision_have_embeddings_of_their_own(shards, model_folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in model_folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    cache = tmp_path / "cache"
    one, same = (Embedder.load(folder, device="cpu", cache=cache) for folder in (model_folder, other))
    assert one.hash == same.hash
    data = ordinary(shards)
    kept = one.images(data).images
    model = same.model
    with torch.no_grad():
        model.visual_projection.weight.mul_(-1)
    model.save(other)
    changed = Embedder.load(other, device="cpu", cache=cache)
    assert changed.hash != one.hash
    torch.testing.assert_close(changed.images(data).images, -kept)
    half = Embedder.load(model_folder, device="cpu", cache=cache, precision="bf16")
    assert not torch.equal(half.images(data).images, kept)
