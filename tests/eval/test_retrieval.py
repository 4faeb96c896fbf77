"""Retrieval through the whole line, against loops over transformers' features; which captions suit which images."""

import json

import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.sets import layout as layouts
from mmclr.eval.sets.shards import ordinary
from mmclr.eval.suites.retrieval import retrieval

from mmclr.errors import UserError


@pytest.fixture(scope="module")
def embedder(model_folder):
    return Embedder.load(model_folder, device="cpu", batch=16)


def brute_recall(scores, right, k):
    """Share of the rows whose k best columns hold a right one."""
    found = 0
    for row, allowed in zip(scores.tolist(), right):
        best = sorted(range(len(row)), key=lambda i: -row[i])[:k]
        found += any(i in allowed for i in best)
    return found / len(right)


def test_several_captions_of_a_picture_equal_a_loop(toy, embedder, layout, model_folder):
    texts = [[f"a red square no {i}", f"toy.picture {i} of a bar", f"{i} and {i + 1}"][: 1 + i % 3] for i in range(30)]
    members = {f"s{i:07d}": {"png": toy.picture(i), "txt": "\n".join(texts[i]).encode()} for i in range(30)}
    result = retrieval.run(embedder, layouts.read(layout(members, "retrieval", classnames=())), ks=(1, 5, 10))
    order = [i for part in (0, 1) for i in range(part, 30, 2)]
    flat = [text for i in order for text in texts[i]]
    owner = [place for place, i in enumerate(order) for _ in texts[i]]
    image, text = toy.peer_features(model_folder, [toy.picture(i) for i in order], flat)
    scores = text @ image.T
    for k in (1, 5, 10):
        to_image = brute_recall(scores, [{o} for o in owner], k)
        mine = [{c for c, o in enumerate(owner) if o == place} for place in range(30)]
        assert result.metrics[f"image_retrieval_recall@{k}"] == pytest.approx(to_image)
        assert result.metrics[f"text_retrieval_recall@{k}"] == pytest.approx(brute_recall(scores.T, mine, k))
    assert result.n["image_retrieval_recall@1"] == 30  # captions of one toy.picture are one unit
    assert "clustered by images" in result.ci95_method["image_retrieval_recall@1"]


def test_a_newline_inside_a_caption_survives_the_layout(toy, layout):
    members = {
        "s0": {"png": toy.picture(0), "txt": rb"one\ntwo" + b"\nthree"},
        "s1": {"png": toy.picture(1), "txt": b"x"},
    }
    data = layouts.read(layout(members, "retrieval", classnames=()))
    assert data.captions[0] == ["one\ntwo", "three"]


def test_equal_captions_are_one_query_with_several_right_pictures(embedder, shards):
    data = ordinary(shards, caption="json:colour")
    result = retrieval.run(embedder, data, relation="caption")
    assert result.sizes == {"images": 60, "captions": 6}
    texts, relevance = retrieval.queries(data, "caption")
    image, text = embedder.images(data).images, embedder.texts(texts)
    right = [{int(i) for i in relevance.item[relevance.query == q]} for q in range(6)]
    assert all(len(r) == 10 for r in right)
    expected = brute_recall(text @ image.T, right, 5)
    assert result.metrics["image_retrieval_recall@5"] == pytest.approx(expected)
    own = [{q} for i in range(60) for q in range(6) if texts[q] == data.captions[i][0]]
    assert result.metrics["text_retrieval_recall@1"] == pytest.approx(brute_recall(image @ text.T, own, 1))


def test_lists_in_the_json_are_several_captions(shards):
    data = ordinary(shards, caption="json:titles")
    assert data.captions[7] == ["green cross", "cross no 7"]


def test_a_collapsed_model_gets_chance(toy, embedder, shards):
    model = embedder.model
    with torch.no_grad():
        kept = [p.clone() for p in model.parameters()]
        model.visual_projection.weight.zero_()[:, 0] = 1  # every toy.picture lands on one point, or on its mirror image
        model.text_projection.weight.zero_()
        model.text_projection.weight[0].fill_(1)
    try:
        dead = Embedder(embedder.name, model, embedder.tokenizer)
        model.vision_model.post_layernorm.weight.data.zero_()
        model.vision_model.post_layernorm.bias.data.fill_(1)
        model.text_model.final_layer_norm.weight.data.zero_()
        model.text_model.final_layer_norm.bias.data.fill_(1)
        result = retrieval.run(dead, ordinary(shards))
    finally:
        for p, old in zip(model.parameters(), kept):
            p.data.copy_(old)
    assert result.metrics["image_retrieval_recall@1"] == pytest.approx(1 / 60)
    assert result.metrics["text_retrieval_recall@10"] == pytest.approx(10 / 60)
    assert result.ties == {"captions": 60, "images": 60}
    assert any("one point" in note for note in result.notes)


def test_pictures_and_texts_are_embedded_once(embedder, shards, monkeypatch):
    data = ordinary(shards)
    retrieval.run(embedder, data)
    monkeypatch.setattr(embedder.model, "encode_image", None)
    monkeypatch.setattr(embedder.model, "encode_text", None)
    retrieval.run(embedder, data, ks=(2,))


def test_a_set_without_captions_is_refused(embedder, shards):
    with pytest.raises(UserError, match="has no captions"):
        retrieval.run(embedder, ordinary(shards, caption="", label="json:colour"))


def test_k_beyond_the_set_is_said(embedder, shards):
    result = retrieval.run(embedder, ordinary(shards), ks=(1, 100))
    assert result.metrics["image_retrieval_recall@100"] == 1
    assert any("only 60 images" in note for note in result.notes)


def test_the_command_takes_clip_benchmarks_names(shards, model_folder, tmp_path, capsys):
    out = tmp_path / "r.json"
    retrieval.main(
        [
            "--model",
            str(model_folder),
            "--dataset_root",
            shards,
            "--dataset",
            "wds/toy",
            "--recall_k",
            "1",
            "3",
            "--batch_size",
            "8",
            "--num_workers",
            "1",
            "--no_amp",
            "--output",
            str(out),
        ]
    )
    tree = json.loads(out.read_text())
    assert tree["dataset"] == "wds/toy"
    assert list(tree["metrics"]) == [f"{way}_retrieval_recall@{k}" for k in (1, 3) for way in ("image", "text")]
    shown = json.loads(out.with_suffix(".examples.json").read_text())["finds"]
    ranks = [next((i for i, f in enumerate(query["found"]) if f["right"]), 99) for query in shown]
    assert len(shown) == 12
    assert ranks == sorted(ranks)  # from the best found to the worst
    assert "image_retrieval_recall@3" in capsys.readouterr().out
    with pytest.raises(UserError, match="name a model"):
        retrieval.main(["--data", shards])
    with pytest.raises(UserError, match="no model there"):
        retrieval.main([str(tmp_path), "--data", shards])
