"""The tokenizer: CLIP's ids, nothing unknown, EOT last, and the same after it is saved."""

import random

import pytest

from mmclr.data.text import BOS, EOS, Tokenizer
from mmclr.errors import UserError

TEXTS = ["a photo of a cat", "Hello, World's 123 best!!", "naïve café", "日本語 テスト", "😀 smile :)", "“curly” it’s",
         "Tom &amp; Jerry", "full ｗｉｄｔｈ", "ﬁne", "", "  spaces \n\t here ", "a " * 100, f"{EOS} inside {BOS}"]  # fmt: skip


def random_strings(n, seed=0):
    draw = random.Random(seed)
    spans = [(32, 126), (160, 0x2FFF), (0x3040, 0x9FFF), (0x1F300, 0x1F700)]
    return ["".join(chr(draw.randint(*draw.choice(spans))) for _ in range(draw.randint(1, 30))) for _ in range(n)]


@pytest.fixture(scope="module")
def clip():
    return Tokenizer.load("clip")


@pytest.fixture(scope="module")
def small():
    return Tokenizer.train(["cloud off outline", "music note", "shopping cart"] * 20, size=540, context=16)


@pytest.mark.parametrize("text", TEXTS)
def test_equals_open_clip(clip, text):
    import open_clip

    ids = open_clip.SimpleTokenizer()([text])[0].tolist()
    assert clip.encode([text])[0] == ids[: ids.index(clip.eos_id) + 1]


@pytest.mark.parametrize("name", ["clip", "small"])
def test_saved_equals_used(name, request, tmp_path):
    from transformers import AutoTokenizer

    tokenizer, texts = request.getfixturevalue(name), TEXTS + random_strings(1000)
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    rows = tokenizer.encode(texts)
    assert again.context == tokenizer.context
    assert again.encode(texts) == rows
    assert plain(texts, truncation=True)["input_ids"] == rows


@pytest.mark.parametrize("name", ["clip", "small"])
def test_eos_is_last_and_nowhere_else(name, request):
    tokenizer = request.getfixturevalue(name)
    for row in tokenizer.encode(TEXTS + random_strings(200)):
        assert row[0] == tokenizer.bos_id
        assert row.index(tokenizer.eos_id) == len(row) - 1 < tokenizer.context
        assert max(row) < tokenizer.vocab_size


def test_trained_words_are_few_tokens(small):
    assert len(small.encode(["cloud music"])[0]) == 4
    assert small.vocab_size <= 540


def test_pads_to_the_longest(small):
    ids, lengths = small(["cloud", "cloud off music"])
    assert ids.shape == (2, 5)
    assert lengths.tolist() == [3, 5]
    assert (ids[0, 3:] == small.pad_id).all()


def test_bad_sources(tmp_path):
    with pytest.raises(UserError, match="no tokenizer.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="too small"):
        Tokenizer.train(["a"], size=100)
