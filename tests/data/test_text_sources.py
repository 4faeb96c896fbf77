"""data.text_sources: a caption of each field, and which samples lack one."""

import json

import pytest
import torch

from mmclr.config import ConfigError
from mmclr.data.samples.field_readers import check_asked
from mmclr.errors import UserError
from tests.data.made import pair, take, write_tar


def test_captions_of_several_sources(make_loader, tmp_path):
    """One of each source, "" where a sample has none; captions and ids are what they were, with sorted rows too."""
    members = []
    for i in range(24):
        told = {"alt": f"alt {i}", "many": [f"a{i}", f"b{i}"]} if i % 3 else {"alt": "  "}
        members += [(f"{i:02d}.{end}", data) for end, data in {**pair(i), "json": json.dumps(told).encode()}.items()]
    write_tar(tmp_path / "0.tar", members)
    settings = {"train": str(tmp_path / "0.tar"), "bucket": True}
    plain, sources = take(make_loader(**settings), 2), ["json:alt", "json:many", "txt"]
    for batch, before in zip(take(make_loader(text_sources=sources, **settings), 2), plain):
        assert torch.equal(batch.caption_id, before.caption_id)
        assert torch.equal(batch.lengths, before.lengths)
        assert batch.text_source_tokens.shape[:2] == batch.text_source_lengths.shape == batch.has_text.shape == (12, 3)
        told = batch.index % 3 > 0
        assert torch.equal(batch.has_text, torch.stack([told, told, torch.ones_like(told)], 1))
        assert (batch.text_source_lengths[~batch.has_text] == 2).all()  # begin and end
        assert torch.equal(batch.text_source_lengths[:, 2], batch.lengths)
        for row, length in enumerate(batch.lengths.tolist()):
            assert torch.equal(batch.text_source_tokens[row, 2, :length], batch.tokens[row, :length])
        parts = batch.split(5)
        assert torch.equal(torch.cat([part.text_source_tokens for part in parts]), batch.text_source_tokens)
    assert plain[0].has_text is None


def test_sources_of_captions_are_different_fields(make_loader):
    with pytest.raises(ConfigError, match="text_sources are different fields"):
        make_loader(text_sources=["txt", "txt"])


def test_one_of_several_captions_of_a_source_is_drawn_anew_each_epoch(make_loader):
    """By the sample and the epoch alone: the same again from any place."""
    settings = {"text_sources": ["json:tags"], "batch": 53}
    first, second = (dict(zip(x.index.tolist(), x.text_source_tokens[:, 0])) for x in take(make_loader(**settings), 2))
    assert any(not torch.equal(first[n][:4], second[n][:4]) for n in first)
    again = make_loader(**settings)
    again.load_state_dict(again.state_dict() | {"position": 53})
    for n, tokens in ((n, x) for b in take(again, 1) for n, x in zip(b.index.tolist(), b.text_source_tokens[:, 0])):
        assert torch.equal(tokens, second[n])


def test_a_source_that_no_sample_has_is_said(make_loader, capsys):
    with pytest.raises(UserError, match=r"data.text_sources=json:nowhere: no sample has it"):
        make_loader(text_sources=["json:nowhere"])
    batch = take(make_loader(text_sources=["json:nowhere", "txt"]), 1)[0]
    said = capsys.readouterr().err
    assert "data.text_sources=json:nowhere: no sample has it; " in said
    assert said.endswith("the others are used\n")
    assert torch.equal(batch.has_text, torch.tensor([[False, True]]).expand(12, 2))


def test_an_objective_that_asks_for_sources_without_any_says_so(make_loader):
    with pytest.raises(
        ConfigError, match=r"asks for has_text, text_sources .* write data.text_sources=\[txt,json:FIELD"
    ):
        check_asked(make_loader().config, ["image", "text_sources", "has_text"])
    check_asked(make_loader(text_sources=["txt"]).config, ["image", "text_sources", "has_text"])
