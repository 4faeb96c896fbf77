"""Several processes on one set: the same numbers as one, and each image is computed once."""

import pytest
from mmclr.eval.embed import ranks
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.suites.retrieval import retrieval

from tests import ranks as processes


def evaluate(folder, shards, cache):
    """Run on each rank: the metrics, and how many images and texts this rank encoded."""
    embedder = Embedder.load(folder, device="cpu", cache=cache, workers=1)
    counted = {"image": 0, "text": 0}

    def count(kind, encode):
        def wrapped(*args):
            rows = encode(*args)
            counted[kind] += len(rows)
            return rows

        return wrapped

    embedder.model.encode_image = count("image", embedder.model.encode_image)
    embedder._encode_batch = count("text", embedder._encode_batch)
    embedder._encode_tree = count("text", embedder._encode_tree)
    result = retrieval.run(embedder, ordinary(shards))
    return result.metrics, result.hashes["images"], counted


@pytest.mark.dist
def test_two_processes_equal_one(shards, model_folder, tmp_path):
    alone = evaluate(model_folder, shards, None)
    first, second = processes.run(2, evaluate, model_folder, shards, tmp_path / "cache")
    assert first[:2] == second[:2] == alone[:2]
    assert alone[2] == {"image": 60, "text": 60}
    assert first[2] == second[2] == {"image": 30, "text": 30}
    again = evaluate(model_folder, shards, tmp_path / "cache")
    assert again == (*alone[:2], {"image": 0, "text": 0})  # what both computed is in the store


@pytest.mark.dist
def test_more_processes_than_pictures(toy, model_folder, tmp_path):
    one = toy.write_tar(tmp_path / "one.tar", {"a": {"png": toy.picture(1), "txt": b"a bar"}})
    assert [r[2] for r in processes.run(2, evaluate, model_folder, str(one), None)] == [
        {"image": 1, "text": 1},
        {"image": 0, "text": 0},
    ]


def test_one_process_has_all():
    assert ranks.part(7) == range(7)
    assert ranks.speaks()
