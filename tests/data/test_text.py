"""The tokenizer: CLIP's ids, nothing unknown, EOT last, and the same after it is saved."""

import json
import random

import pytest

from mmclr.data.samples import text
from mmclr.data.samples.text import BOS, EOS, Tokenizer
from mmclr.errors import UserError

TEXTS = ["a photo of a cat", "Hello, World's 123 best!!", "naïve café", "日本語 テスト", "😀 smile :)", "“curly”",
         "it’s", "Tom &amp; Jerry", "full ｗｉｄｔｈ", "ﬁne", "", "  spaces \n\t here ", "a " * 100,
         f"{EOS} inside {BOS}"]  # fmt: skip


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


HOSTILE = ["x" * 6_000, "cat " * 1_500, " " * 6_000 + "cat", "a" + "\u0301" * 6_000, "&amp;" * 1_200, "\ufdfa" * 6_000,
           "\u202e\u05d0" * 3_000, "\x01\x02" * 3_000, "7" * 6_000, "\u65e5" * 6_000, "a\n" * 3_000,
           f"{EOS} " * 450, "an ordinary story, of a dog &amp; a cat. " * 150,
           " \u00a0" * 3_000 + "a dog"]  # fmt: skip


@pytest.mark.parametrize("name", ["clip", "small"])
def test_long_texts_have_the_ids_of_the_whole(name, request):
    """The beginning that is looked at is enough, and what is looked at does not grow with the text."""
    tokenizer = request.getfixturevalue(name)
    whole = [tokenizer._encoder.encode(text).ids for text in HOSTILE]
    assert tokenizer.encode(HOSTILE) == whole
    assert all(len(row) <= tokenizer.context for row in whole)


def test_a_megabyte_costs_what_its_beginning_does(clip, monkeypatch):
    seen = []
    begin = text._begin
    monkeypatch.setattr(text, "_begin", lambda *args: seen.append(begin(*args)) or seen[-1])
    clip.encode(["x" * (1 << 20), "a cat " * (1 << 17), "short"])
    assert max(map(len, seen)) <= 64 * clip.context


@pytest.mark.parametrize("bad", ["a \ud83d", None, 3, b"a"])
def test_what_is_not_text_is_named(clip, bad):
    with pytest.raises(UserError, match="text 1 .*(surrogate|not a string)"):
        clip.encode(["fine", bad])


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


@pytest.mark.parametrize("name", ["clip", "small"])
def test_ids_become_text_again_and_none_an_empty_one(name, request, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = request.getfixturevalue(name)
    tokenizer.save(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    rows = [[], [tokenizer.bos_id, tokenizer.eos_id], *tokenizer.encode(["", "cloud off"])]
    assert [tokenizer.decode(row) for row in rows] == ["", "", "", "cloud off"]
    assert saved.batch_decode(rows, skip_special_tokens=True) == ["", "", "", "cloud off"]


def test_bad_sources(tmp_path):
    with pytest.raises(UserError, match="no tokenizer.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="too small"):
        Tokenizer.train(["a"], size=100)


@pytest.fixture
def bert(tmp_path):
    """A folder with BERT's kind of tokenizer: [CLS] and [SEP], no BOS, no EOS."""
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s", "dog"]
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_a_tokenizer_of_another_kind(bert, tmp_path):
    tokenizer = Tokenizer.load(bert, context=5)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (2, 3, 0)
    ids, lengths = tokenizer(["a cats", "dog " * 9, "[SEP]"])
    assert ids[0].tolist() == [2, 5, 6, 7, 3]
    assert ids[1].tolist() == [2, 8, 8, 8, 3]  # cut, and it ends as the others
    assert lengths.tolist()[:2] == [5, 5]
    assert 3 not in ids[2, 1 : lengths[2] - 1]  # a special token's name inside a caption is text
    tokenizer.save(tmp_path / "again")
    again = Tokenizer.load(tmp_path / "again")
    assert again.context == 5
    assert again.encode(["a cats", "[SEP] dog"]) == tokenizer.encode(["a cats", "[SEP] dog"])


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    from tokenizers import Tokenizer as Backend
    from tokenizers import models
    from transformers import PreTrainedTokenizerFast

    plain = Backend(models.WordLevel({"a": 0, "<eos>": 1, "?": 2}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="do not end with an end-of-text token"):
        Tokenizer.load(tmp_path)


def test_open_clip_folders_have_clips_tokenizer(tmp_path, clip):
    config = {"model_cfg": {"text_cfg": {"context_length": 9}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.context == 9
    assert tokenizer.encode(["a photo of a cat"]) == clip.encode(["a photo of a cat"])
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "somebody/elses"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="somebody/elses: no tokenizer.json there, and none on the Hub"):
        Tokenizer.load(tmp_path)
