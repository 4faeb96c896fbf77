"""Scores of captions against numbers of other implementations, and the suite against what it is made of."""

import json

import numpy as np
import pytest
import torch
from mmclr.eval.embed.embedder import Embedder
from mmclr.eval.metrics import caption_scores
from mmclr.eval.metrics.caption_scores import bleu, cider, exact, meteor, perplexity, rouge_l, words
from mmclr.eval.sets.sources import open_set
from mmclr.eval.suites.retrieval import caption

from mmclr.config import check
from mmclr.data.samples.text import Tokenizer
from mmclr.errors import UserError
from mmclr.models.captioning.decoding import Decoding
from mmclr.models.captioning.generate import to_generate
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer
from tests import bounds
from tests.ranks import run

REFERENCES = [
    ["a man rides a brown horse along the beach", "someone on horseback by the sea", "a rider and a horse on the sand"],
    ["two dogs run across a green field", "a pair of dogs running on grass"],
    ["a red bus stops at the corner of a street"],
    ["children play football in the park", "some kids are playing with a ball in a park", "a group of kids in a park"],
    ["the cat sleeps on a blue sofa", "a cat lying on the couch"],
]
FOUND = ["a man rides a horse on the beach", "two dogs run across a field of grass", "a red bus at the corner",
         "kids are playing with a ball in the park", "a dog on a blue sofa with a cat"]  # fmt: skip
# What pycocoevalcap 1.2, the evaluation of COCO, says of these (benchmarks/caption.py compares on random texts).
BLEU_4 = 0.58354906165
ROUGE_L = [0.8148855, 0.80973451, 0.71764706, 0.83418803, 0.5115304]
CIDER = [2.52932547, 3.51768832, 3.52371115, 3.46771399, 2.44486399]


def split(found=FOUND, references=REFERENCES):
    return [text.split() for text in found], [[text.split() for text in texts] for texts in references]


def random_corpus(seed, n=60):
    draw = np.random.default_rng(seed)
    vocabulary = [f"w{i}" for i in range(15)]
    references = [[draw.choice(vocabulary, draw.integers(4, 11)).tolist() for _ in range(1 + i % 3)] for i in range(n)]
    found = []
    for refs in references:
        own = [w if draw.random() > 0.2 else str(draw.choice(vocabulary)) for w in refs[0]]
        found.append(own[: draw.integers(4, len(own) + 1)])
    return found, references


def test_numbers_of_cocos_evaluation():
    assert bleu(*split()).mean == pytest.approx(BLEU_4, abs=1e-9)
    np.testing.assert_allclose(rouge_l(*split()).values, ROUGE_L, atol=1e-8)  # float64, printed so
    np.testing.assert_allclose(cider(*split()).values, CIDER, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_bleu_equals_nltk(seed):
    from nltk.translate.bleu_score import corpus_bleu

    found, references = random_corpus(seed)
    assert bleu(found, references).mean == pytest.approx(corpus_bleu(references, found), rel=1e-12)


def test_published_values_of_meteor():
    """Three sentences whose scores are printed in introductions to the metric."""
    reference = ["the", "cat", "sat", "on", "the", "mat"]
    for text, value in (
        ("the cat sat on the mat", 0.9977),
        ("the cat was sat on the mat", 0.9654),
        ("on the mat sat the cat", 0.5000),
    ):
        assert meteor([text.split()], [[reference]]).mean == pytest.approx(value, abs=bounds.bound(terms=16384))
    assert meteor([["running"]], [[["runs"]]]).mean > 0  # equal stems


@pytest.mark.parametrize("seed", range(2))
def test_a_corpus_number_has_the_spread_of_the_bootstrap(seed):
    found, references = random_corpus(seed)
    measured = bleu(found, references)
    draw = np.random.default_rng(0)
    again = [draw.integers(0, len(found), len(found)) for _ in range(200)]
    values = [bleu([found[i] for i in some], [references[i] for i in some]).mean for some in again]
    assert measured.variance() ** 0.5 == pytest.approx(np.std(values), rel=0.25)
    costs, tokens = draw.uniform(1, 9, 200), draw.integers(1, 12, 200).astype(float)
    measured = perplexity(costs, tokens)
    assert measured.mean == pytest.approx(np.exp(costs.sum() / tokens.sum()), rel=1e-12)
    again = [draw.integers(0, 200, 200) for _ in range(200)]
    values = [perplexity(costs[some], tokens[some]).mean for some in again]
    assert measured.variance() ** 0.5 == pytest.approx(np.std(values), rel=0.25)


def test_ends_of_the_scales():
    found, references = split()
    same = [refs[0] for refs in references]
    assert exact(same, references).mean == bleu(same, references).mean == rouge_l(same, references).mean == 1
    assert cider([refs[0] for refs in references], [refs[:1] for refs in references]).mean == pytest.approx(10)
    other = [["nothing", "whatsoever"]] * 5
    assert exact(other, references).mean == bleu(other, references).mean == cider(other, references).mean == 0
    empty = [[]] * 5
    for score in (exact, bleu, rouge_l, cider, meteor):
        assert score(empty, references).mean == 0


def test_words_are_those_of_cocos_tokenizer():
    text = "A man's dog isn't well-known; it's (really) 3.5 ft. -- \"yes\"!"
    assert words(text) == ["a", "man", "'s", "dog", "is", "n't", "well-known", "it", "'s", "really", "3.5", "ft", "yes"]
    assert words("  ... ?") == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with an untrained captioner that tells images apart."""
    tokenizer = Tokenizer.train(["a red square 1", "a blue cross 22", "a green bar 3"] * 5, 560, context=16)
    t = tokenizer
    tree = {"preset": "icons", "image": {"layers": 1}, "text": {"layers": 1}, "captioner": {"layers": 1}}
    torch.manual_seed(0)
    model = TwoTower(with_tokenizer(check(ModelConfig, tree), t.vocab_size, t.bos_id, t.eos_id, t.pad_id))
    model.words().data.mul_(30)
    model.text_model.embeddings.position_embedding.weight.data.mul_(300)
    model.captioner.layers[0].cross_attn.out_proj.weight.data.mul_(30)
    path = tmp_path_factory.mktemp("model")
    model.save(path)
    tokenizer.save(path)
    return path


def seen(medium, data):
    return medium.batched(np.stack([medium.plain(medium.open(data))]))[0]


def measure(folder, shards, **settings):
    return caption.run(Embedder.load(folder, device="cpu", batch=16), open_set(shards), **settings)


def test_the_suite_is_made_of_its_parts(folder, shards):
    result = measure(folder, shards, how=Decoding(max_tokens=5))
    embedder, data = Embedder.load(folder, device="cpu"), open_set(shards)
    images = embedder.images(data).images
    pixels = torch.stack([seen(embedder.medium, data.read(i)) for i in range(len(data))])
    peer, tokenizer = to_generate(embedder.model), embedder.tokenizer
    with torch.no_grad():
        rows = peer.generate(pixel_values=embedder.model.normalise(pixels), max_length=7)
        captions = [tokenizer.decode(row[:6]) for row in rows.tolist()]
        tokens, lengths = tokenizer([texts[0] for texts in data.captions])
        logits = peer(pixel_values=embedder.model.normalise(pixels), decoder_input_ids=tokens).logits
    cosines = (images * embedder.texts(captions)).sum(1)
    assert result.metrics["CLIPScore"] == pytest.approx(
        2.5 * cosines.clamp(min=0).mean().item(), rel=bounds.bound(terms=512)
    )
    log_p = logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    told = log_p[torch.arange(1, tokens.shape[1]) < lengths[:, None]]
    assert result.metrics["perplexity"] == pytest.approx((-told.mean()).exp().item(), rel=1e-4)
    found = [words(text) for text in captions]
    assert result.metrics["ROUGE_L"] == pytest.approx(rouge_l(found, [[words(t[0])] for t in data.captions]).mean)
    assert result.sizes == {"images": 60, "captions": 60}
    assert result.task == "captioning"


def test_what_it_writes_itself_is_exact(folder, shards, toy, tmp_path):
    embedder, data = Embedder.load(folder, device="cpu"), open_set(shards)
    written = caption.write(embedder, caption.Writer(embedder.model), data, Decoding())[0]
    assert len(set(written)) > 2
    samples = {f"{i:03d}": {"png": data.read(i), "txt": f"{text}| more".encode()} for i, text in enumerate(written)}
    toy.write_tar(tmp_path / "own" / "0.tar", samples)
    result = measure(folder, str(tmp_path / "own" / "0.tar"), until="|", show=3)
    assert result.metrics["exact"] == 1
    assert "compared up to '|'" in result.notes
    assert [example["right"] for example in result.examples["captions"]] == [True] * 3


@pytest.mark.dist
def test_processes_share_the_set(folder, shards):
    alone = measure(folder, shards, how=Decoding(beams=2, max_tokens=4)).metrics
    for metrics in run(2, _metrics, str(folder), shards):
        assert metrics == pytest.approx(alone, rel=bounds.bound(terms=512))


def _metrics(folder, shards):
    return measure(folder, shards, how=Decoding(beams=2, max_tokens=4)).metrics


def test_without_nltk_one_number_is_missing(folder, shards, monkeypatch):
    monkeypatch.setattr(caption_scores, "meteor", lambda *_: None)
    result = measure(folder, shards)
    assert result.metrics["METEOR_without_synonyms"] is None
    assert any("pip install 'mmclr[captions]'" in note for note in result.notes)


def test_command_and_its_file(folder, shards, tmp_path, capsys):
    out = tmp_path / "result.json"
    caption.main(
        [
            str(folder),
            "--data",
            shards,
            "--beams",
            "2",
            "--max-tokens",
            "3",
            "--judge",
            str(folder),
            "--out",
            str(out),
            "--examples",
            "2",
        ]
    )
    tree = json.loads(out.read_text())
    assert tree["metrics"].keys() == {
        "exact",
        "Bleu_4",
        "METEOR_without_synonyms",
        "ROUGE_L",
        "CIDEr",
        "perplexity",
        "CLIPScore",
    }
    assert f"CLIPScore judged by {folder}" in tree["notes"]
    assert len(json.loads(out.with_suffix(".examples.json").read_text())["captions"]) == 2
    assert "CIDEr" in capsys.readouterr().out


def test_a_model_without_a_captioner_is_refused(model_folder, shards):
    with pytest.raises(UserError, match="this model has no captioner"):
        measure(model_folder, shards)
