"""A field that no sample has is named at once, with the one that is meant, wherever fields are asked for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmclr.data_tools.commands.convert import pack
from mmclr.data_tools.commands.enrich import tokenizer
from mmclr.data_tools.commands.inspect import peek, stats, verify
from mmclr.eval.sets.shards import ordinary

from mmclr.data.samples import absent
from mmclr.data.shards import sources
from mmclr.data.shards.index import open_indices
from mmclr.data.shards.shards import Shards
from mmclr.errors import UserError
from tests.data.made import picture, write_tar

FACTS = {"title": "a boat", "category": "boats", "w": 2.0, "inner": {"label": 3}, "nothing": None}
WRITTEN = {  # what people write: what they mean
    "title": "json:title", "category": "json:category", "json:categry": "json:category", "json.title": "json:title",
    "json:label": "json:inner.label", "TXT": "txt", ".txt": "txt", "json:txt": "txt", "$.title": "json:title",
    "json/title": "json:title", "json:Title": "json:title", "w": "json:w",
}  # fmt: skip


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    members = [m for n in range(6) for m in ((f"{n}.png", picture(n)), (f"{n}.txt", b"x"),
                                             (f"{n}.json", json.dumps(FACTS).encode()))]  # fmt: skip
    return str(write_tar(tmp_path_factory.mktemp("absent") / "0.tar", members))


@pytest.mark.parametrize(("name", "meant"), WRITTEN.items())
def test_every_reader_says_which_field_is_meant(make_loader, shard, tmp_path, name, meant):
    readers = {
        "caption": lambda: make_loader(train=shard, batch=2, caption=name),
        "label": lambda: make_loader(train=shard, batch=2, label=name),
        "weight": lambda: make_loader(train=shard, batch=2, weight=name),
        "stats": lambda: stats.main([shard, "--caption", name]),
        "verify": lambda: verify.main([shard, "--caption", name, "--workers", "0"]),
        "peek": lambda: peek.main([shard, str(tmp_path / "p.png"), "--caption", name]),
        "tokenizer": lambda: tokenizer.main([shard, str(tmp_path / "t"), "--caption", name]),
        "eval label": lambda: ordinary(shard, caption="", label=name),
        "eval caption": lambda: ordinary(shard, caption=name),
    }
    for reader, read in readers.items():
        with pytest.raises(
            UserError, match=f"no sample has .*; write {meant}; members: json, png, txt; fields"
        ) as said:
            read()
        assert "Traceback" not in str(said.value), reader
        assert name in str(said.value), reader


@given(st.text(max_size=30))
def test_any_name_gets_a_sentence_or_is_there(shard, name):
    parts = [Shards(open_indices([shard]), ())]
    there = {"png", "txt", "json", *(f"json:{n}" for n in FACTS if n != "nothing"), "json:inner.label"}
    known = name in there or not name
    try:
        absent.check(parts, {"data.label": [name]})
    except UserError:
        assert not known
    else:
        assert known or name.endswith(":")  # the whole member


def test_a_field_beside_others_is_noted_and_null_is_nowhere(make_loader, shard, capsys):
    make_loader(train=shard, batch=2, caption={"txt": 1, "json:titel": 1})
    assert "data.caption=json:titel: no sample has it; write json:title" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"data\.label=json:nothing: no sample has it"):
        make_loader(train=shard, batch=2, label="json:nothing")


def test_what_cannot_be_read_is_no_missing_field(make_loader, tmp_path):
    members = [m for n in range(4) for m in ((f"{n}.png", picture(n)), (f"{n}.txt", b"x"), (f"{n}.json", b"{"))]
    make_loader(train=str(write_tar(tmp_path / "0.tar", members)), batch=2, label="json:title")


def test_names_keep_their_capitals():
    told = {"No such file": "no such file", "A b": "a b", "HF_HUB_OFFLINE is set": None, "ValueError: x": None}
    assert {text: sources.why(OSError(5, text)) for text in told} == {t: v or t for t, v in told.items()}


def test_pack_takes_a_field_by_either_name_and_says_which_is_meant(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for n in range(2):
        (tmp_path / "in" / f"{n}.png").write_bytes(picture(n))
        (tmp_path / "in" / f"{n}.json").write_text(json.dumps(FACTS))
    for at, name in enumerate(("title", "json:title")):
        assert pack.main([str(tmp_path / "in"), str(tmp_path / f"{at}"), "--caption", name, "--workers", "0"]) == 0
    assert pack.main([str(tmp_path / "in"), str(tmp_path / "2"), "--caption", "titel", "--workers", "0"]) == 1
    assert "no 0.txt beside it, no field 'titel'; did you mean title?" in capsys.readouterr().out
