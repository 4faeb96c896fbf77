"""What a run has trained, contrastive, sigmoid or captioning, is the same in a process without mmclr."""

import pytest

from mmclr.config import load
from mmclr.export.commands.open_clip import write as write_open_clip
from mmclr.export.commands.transformers import write
from mmclr.export.origin import Source
from mmclr.train.run import RunConfig
from tests import bounds
from tests.export.test_export_captioner import written_alone
from tests.exports import check_alone

OBJECTIVES = {
    "contrastive": ["objectives={clip: {}}"],
    "sigmoid": ["objectives={siglip: {}}", "average.decay=0.9"],
    "captioning": ["model.captioner={layers: 1}", "objectives={clip: {}, caption: {}}"],
}


@pytest.fixture(scope="module")
def sources(shards, tmp_path_factory):
    """Return {folder of the export: what was exported} of three short runs."""
    from mmclr.train.trainer import train

    found = {}
    for name, objectives in OBJECTIVES.items():
        root = tmp_path_factory.mktemp(name)
        settings = [f"data.train={shards}", f"out={root / 'run'}", "steps=4", "precision=float32", *objectives]
        train(load(RunConfig, "debug.yaml", settings), quiet=True)
        found[root / "out"] = Source.open(root / "run")
        write(found[root / "out"], root / "out")
    return found


def test_a_fresh_process_gets_the_same(sources, tmp_path):
    check_alone(sources, tmp_path, "CLIPModel")


def test_its_captions_too(sources, tmp_path):
    folder, source = list(sources.items())[-1]
    written_alone(source.captioner, folder, tmp_path)


def test_cards_say_how_it_was_trained(sources):
    cards = [(folder / "README.md").read_text() for folder in sources]
    assert all("- 4 steps of 16 pairs (64 seen)" in card for card in cards)
    assert '"siglip"' in cards[1]
    assert "averaged weights, decay 0.9" in cards[1]
    assert "samples that could not be used: none" in cards[0]


def test_open_clip_agrees_too(sources, tmp_path):
    for i, source in enumerate(sources.values()):
        differences = write_open_clip(source, tmp_path / str(i))
        assert max(differences["image_features"], differences["text_features"]) <= bounds.bound(terms=512)
