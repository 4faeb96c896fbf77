"""Towers of transformers are exported as what transformers has for them, or refused."""

import pytest

from mmclr.errors import UserError
from mmclr.export.commands.transformers import export, write
from mmclr.export.origin import Source
from tests.exports import check_alone, close, foreign


def test_foreign_pairs_become_a_dual_encoder(tmp_path):
    sources = {}
    for image, pool in (("ViT", "pooler"), ("Dinov2", "cls")):
        source = Source.open(foreign(tmp_path / image, pool, "pooler", image))
        write(source, tmp_path / image / "out")
        sources[tmp_path / image / "out"] = source
    check_alone(sources, tmp_path, "VisionTextDualEncoderModel")


def test_siglip_stays_siglip(tmp_path):
    source = Source.open(foreign(tmp_path, "pooler", "pooler", "Siglip", "SiglipText"))
    write(source, tmp_path / "out")
    check_alone({tmp_path / "out": source}, tmp_path, "SiglipModel", pad="max_length")
    again = Source.open(tmp_path / "out")
    for name, value in source.model.state_dict().items():
        close(again.model.state_dict()[name], value, 0)


def test_what_transformers_cannot_hold_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"its text tower \(bert\) is pooled by 'mean' and not by its own pooler"):
        export(foreign(tmp_path, "pooler", "mean"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
