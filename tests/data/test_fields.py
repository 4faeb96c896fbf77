"""Values of a sample: each is read, or is a fault with its reason; nothing else happens, whatever the bytes are."""

import codecs
import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmclr.data.samples import fields
from mmclr.data.samples.captions import Chooser
from mmclr.data.samples.fields import Field, caption, captions, find, label, text, tree, weight
from mmclr.data.samples.skipped import REASONS, Fault
from mmclr.data.samples.values import READERS, read
from mmclr.data.shards.shards import Sample
from mmclr.data.shards.subset import uid_of

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


def sample(**members):
    return Sample("a.tar", 0, "k", members)


def attempt(read, *args):
    """Return (value, None), or (None, reason of the fault)."""
    try:
        return read(*args), None
    except Fault as fault:
        return None, fault.reason


def reason(action):
    with pytest.raises(Fault) as fault:
        action()
    assert fault.value.detail
    return fault.value.reason


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")))
def test_text_of_every_encoding_that_says_its_name(words):
    for encoding, mark in (
        ("utf-8", b""),
        ("utf-8-sig", b""),
        ("utf-16", b""),
        ("utf-32", b""),
        ("utf-16-be", codecs.BOM_UTF16_BE),
    ):
        assert text(mark + words.encode(encoding), "txt") == words


@given(st.binary(max_size=80))
@example(b"\xff\xfea")
@example("a cat".encode("utf-16-le"))
@example("caf\u00e9".encode("latin-1"))
def test_bytes_are_text_or_a_fault(data):
    found, why = attempt(text, data, "txt")
    assert why in (None, "bad_text")
    assert why or ("\0" not in found and isinstance(found.encode(), bytes))


def test_faults_of_text_say_where():
    with pytest.raises(Fault, match="txt is not UTF-8 at byte 3"):
        text(b"caf\xe9", "txt")
    with pytest.raises(Fault, match="txt has a NUL at 1"):
        text(b"a\0c\0a\0t\0", "txt")
    with pytest.raises(Fault, match="txt has more than the 1,048,576 bytes"):
        text(b"a" * (fields.TEXT_BYTES + 1), "txt")


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000, b'{"a":' * 500 + b"1" + b"}" * 500,
     b"[" * 101 + b"]" * 101, b"9" * 5000, b'{"caption": ' + b"9" * 5000 + b"}", b"", b"{", b"\xff", b'{"a": "\xff"}',
     b" " * (fields.JSON_BYTES + 1), b"nul", b"\0", b'{"a": 1}x'],
)  # fmt: skip
def test_json_that_cannot_be_used_is_a_fault_everywhere(data):
    bad = sample(json=data)
    assert reason(lambda: tree(data, "json")) == "bad_text"
    assert reason(lambda: Field("json:caption").texts(bad)) == "bad_text"
    assert reason(lambda: read("class", Field("json:caption"), bad)) == "bad_text"
    assert uid_of("k", data) is None


@given(VALUES)
@settings(max_examples=40)
@example(json.loads("[" * 100 + "]" * 100))
def test_json_is_read_as_it_was_written(value):
    found = tree(json.dumps(value).encode(), "json")
    assert json.dumps(found) == json.dumps(value)


def test_fields_of_objects():
    found = tree(
        b'{"a": {"b": 1, "c.d": {"e": 2}}, "a.b": 3, "x": {"y": {"z": 4}}, "x.y": 5, "n": null, "s": "t"}', "j"
    )
    told = {"a.b": 3, "a.c.d.e": 2, "x.y": 5, "x.y.z": 4, "n": None, "s": "t", "s.t": None, "a.q": None, "": None}
    assert {path: find(found, path) for path in told} == told
    assert [find(other, "a.b") for other in (None, 1, "a.b", [{"a.b": 1}])] == [None] * 4


@given(VALUES)
def test_captions_are_encodable_or_a_fault(value):
    lost = []
    found, why = attempt(captions, value, "json:t", lost)
    assert why in (None, "bad_text")
    if why:
        return
    entries = value if isinstance(value, list) else [value]
    there = [e for e in entries if e is not None and e == e]
    assert len(found or []) + len(lost) == len(there)
    assert {fault.reason for fault in lost} <= {"lost_caption"}
    for words in found or []:
        assert words.encode().decode() == words
        assert "\0" not in words


def test_captions_of_values():
    assert captions(["a", None, 3, 0.5, math.nan, ""], "t") == ["a", "3", "0.5", ""]
    assert captions(None, "t") is captions(math.nan, "t") is None
    assert captions([], "t") == captions([None], "t") == []
    for value in (True, {}, [[]], [["a"]], math.inf, "a \ud83d", "a\0b", 10**400, "a" * (fields.TEXT_BYTES + 1)):
        assert reason(lambda value=value: captions(value, "t")) == "bad_text"
        assert captions(["good", *(value if isinstance(value, list) else [value])], "t") == ["good"]
    assert reason(lambda: captions(["a"] * 10_001, "t")) == "bad_text"
    assert reason(lambda: caption(None, "t")) == "bad_text"


def test_a_lost_caption_is_counted():
    lost = []
    found = Chooser({"txt": 1.0, "json:t": 1.0}).candidates(sample(txt=b"\xff", json=b'{"t": ["a", "\\ud83d"]}'), lost)
    assert found == [(1.0, ["a"])]
    assert [fault.reason for fault in lost] == ["lost_caption"] * 2
    assert "lone surrogate" in lost[0].detail
    assert "not UTF-8" in lost[1].detail


@given(VALUES, st.booleans())
def test_labels_are_64_bits_or_a_fault(value, words):
    found, why = attempt(label, value, "cls", words)
    assert why in (None, "bad_label", "bad_text")
    if not why:
        assert -(1 << 63) <= found < 1 << 63
        assert not isinstance(value, int) or isinstance(value, bool) or found == value


def test_labels_of_values():
    for value in (7, 7.0, "7", " 7\n", "7.0", "7.", [7, 8], [None, 7], "+7"):
        assert label(value, "cls", words=False) == 7
    assert label(-5, "cls") == -5
    assert label((1 << 63) - 1, "cls") == (1 << 63) - 1
    for value in (1 << 63, -(1 << 63) - 1, 1e30, str(1 << 63), "9" * 5000, math.nan, math.inf, "", " ", {}, None, []):
        assert reason(lambda value=value: label(value, "cls")) == "bad_label"
    for value in ("dog", 3.5, True):
        assert label(value, "cls") == label(value, "cls") == label(str(value), "cls")
        assert reason(lambda value=value: label(value, "cls", words=False)) == "bad_label"
    assert reason(lambda: label("\ud83d", "cls")) == "bad_text"


@given(VALUES)
def test_weights_are_finite_or_a_fault(value):
    found, why = attempt(weight, value, "w")
    assert why in (None, "bad_label")
    assert why or 0 <= found <= fields.HEAVIEST


def test_weights_of_values():
    assert [weight(value, "w") for value in (0, 2, 0.25, "0.5", " 1e3 ", [3, "x"])] == [0, 2, 0.25, 0.5, 1000, 3]
    for value in (math.nan, "nan", math.inf, "-inf", -0.5, "-1", 1e31, 10**400, True, None, "heavy", "", {}, [], [[1]]):
        assert reason(lambda value=value: weight(value, "w")) == "bad_label"
    assert read("weight", Field("json:w"), sample(json=b'{"w": null}')) == 1.0
    assert read("class", Field("json:w"), sample(json=b'{"w": []}')) == -1


@pytest.mark.slow
@given(st.binary(max_size=300) | VALUES.map(lambda value: json.dumps({"a": value}).encode()), st.integers(0, 2**32))
def test_every_member_is_read_or_a_fault(data, where):
    """The same bytes with one changed, as every kind of member."""
    if data:
        data = bytes([*data[: where % len(data)], where % 256, *data[where % len(data) + 1 :]])
    found = sample(json=data)
    for field in map(Field, ("json", "json:a", "json:a.b")):
        assert attempt(Field.texts, field, found)[1] in (None, *REASONS)
        for kind in READERS:
            assert attempt(read, kind, field, found)[1] in (None, *REASONS)
