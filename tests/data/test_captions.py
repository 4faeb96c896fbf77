"""Which text is taken from a sample."""

import json
from collections import Counter

import numpy as np
import pytest

from mmclr.data.random import key
from mmclr.data.samples.captions import Chooser, Field, TextEdits, text_id
from mmclr.data.samples.skipped import Fault
from mmclr.data.samples.values import read
from mmclr.data.shards.shards import Sample


def sample(**members):
    return Sample(
        "a.tar", 0, "k", {name: data if isinstance(data, bytes) else data.encode() for name, data in members.items()}
    )


def chooser(fields, split="none", captions=1, **edits):
    return Chooser(fields, split, TextEdits(**edits), captions)


def choose(how, found, seeds=range(1)):
    candidates = how.candidates(found)
    return [how.choose(candidates, key(np.array([seed]))) for seed in seeds]


def test_fields():
    found = sample(txt=" a cat \n", json=json.dumps({"title": "A", "deep": {"tags": ["x", "y", 3]}, "none": None}))
    assert Field("txt").texts(found) == [" a cat \n"]
    assert Field("json:title").texts(found) == ["A"]
    assert Field("json:deep.tags").texts(found) == ["x", "y", "3"]
    assert Field("json:none").texts(found) is None
    assert Field("json:title.more").texts(found) is None
    assert Field("caption").texts(found) is None
    assert choose(chooser({"txt": 1.0}), found) == [["a cat"]]


def test_probabilities_of_fields():
    found = sample(txt="a", json=json.dumps({"title": "b", "tags": ["c", "d"]}))
    fields = {"txt": 1.0, "json:title": 3.0, "json:tags": 4.0, "json:missing": 5.0}
    counts = Counter(text for [text] in choose(chooser(fields), found, range(8000)))
    for text, wanted in (("a", 1000), ("b", 3000), ("c", 2000), ("d", 2000)):
        assert abs(counts[text] - wanted) < 250


def test_several_captions_are_different_while_they_last():
    found = sample(txt="a", json=json.dumps({"tags": ["b", "c"]}))
    for texts in choose(chooser({"txt": 1.0, "json:tags": 1.0}, captions=5), found, range(50)):
        assert set(texts[:3]) == {"a", "b", "c"}
        assert set(texts[3:]) <= {"a", "b", "c"}
    assert choose(chooser({"txt": 1.0}, captions=3), found) == [["a", "a", "a"]]


def test_lines_and_sentences():
    found = sample(txt="One fish. Two fish!\n\nRed fish? Blue")
    lines = {text for [text] in choose(chooser({"txt": 1.0}, "lines"), found, range(50))}
    assert lines == {"One fish. Two fish!", "Red fish? Blue"}
    sentences = {text for [text] in choose(chooser({"txt": 1.0}, "sentences"), found, range(80))}
    assert sentences == {"One fish.", "Two fish!", "Red fish?", "Blue"}


def test_edits_keep_most_words():
    words = [f"w{n}" for n in range(10)]
    found = sample(txt=" ".join(words))
    how = chooser({"txt": 1.0}, probability=0.5, delete=0.2, swap=0.1)
    texts = [text for [text] in choose(how, found, range(2000))]
    same = sum(text == " ".join(words) for text in texts) / 2000
    lengths = [len(text.split()) for text in texts]
    assert 0.45 < same < 0.56  # the unedited half, and edits that change nothing
    assert abs(np.mean(lengths) - (0.5 * 10 + 0.5 * 8)) < 0.2
    assert all(set(text.split()) <= set(words) for text in texts)
    always = chooser({"txt": 1.0}, probability=1.0, delete=1.0)
    assert all(len(text.split()) == 1 for [text] in choose(always, found, range(50)))


def test_stop_words_go_together_or_not_at_all():
    found = sample(txt="The cat of a queen sleeps in the sun.")
    how = chooser({"txt": 1.0}, probability=1.0, delete=0.0, swap=0.0, stop_words=0.8)
    counts = Counter(text for [text] in choose(how, found, range(2000)))
    assert counts.keys() == {"The cat of a queen sleeps in the sun.", "cat queen sleeps sun."}
    assert abs(counts["cat queen sleeps sun."] / 2000 - 0.8) < 0.04
    only = chooser({"txt": 1.0}, probability=1.0, delete=0.0, swap=0.0, stop_words=1.0)
    assert choose(only, sample(txt="to be or to be")) == [["to be or to be"]]  # a caption never becomes empty


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"json": "{}"}, "no_caption"),
        ({"txt": "  \n "}, "empty_caption"),
        ({"txt": b"caf\xe9"}, "bad_text"),
        ({"json": "{broken"}, "bad_text"),
        ({"json": '{"title": {"en": "x"}}'}, "bad_text"),
        ({"json": b'{"title": "\xff"}'}, "bad_text"),
    ],
)
def test_faults(members, reason):
    with pytest.raises(Fault) as fault:
        chooser({"txt": 1.0, "json:title": 1.0}).candidates(sample(**members))
    assert fault.value.reason == reason


def test_another_field_helps_out():
    found = sample(txt=b"\xff", json='{"title": "good"}')
    assert choose(chooser({"txt": 9.0, "json:title": 1.0}), found) == [["good"]]


def test_text_id():
    assert text_id("A  Photo of\na cat ") == text_id("a photo of a cat")
    assert text_id("a photo of a cat") != text_id("a photo of a car")
    assert text_id("a photo of a cat") == -8087795858974057964  # the same on every machine and in every version


def test_numbers():
    found = sample(cls=" 7\n", json='{"weight": 0.25, "word": "dog", "whole": 3}')
    assert read("class", Field("cls"), found) == 7
    assert read("weight", Field("json:weight"), found) == 0.25
    assert read("class", Field("json:none"), found) == -1
    assert read("class", Field("json:word"), found) == read("class", Field("json:word"), found)
    with pytest.raises(Fault, match="dog"):
        read("weight", Field("json:word"), found)
