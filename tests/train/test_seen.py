"""What the towers see of a batch: all pixel sets in one pass, patches left out alike, no weight without gradient."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from mmclr import sample_random
from mmclr.batch_fields import SETS
from mmclr.config import check
from mmclr.features import towers
from mmclr.features.frozen import Frozen
from mmclr.features.student import Student
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer
from tests.exports import tokenizer
from tests.train.test_accumulate import LOADED, TREE, make_batch


def model(**image):
    torch.manual_seed(0)
    tree = {**TREE, "image": {**TREE["image"], **image}}
    return TwoTower(with_tokenizer(check(ModelConfig, tree), 90, 1, 2, 2)).double()


def test_all_that_is_wanted_goes_through_the_tower_at_once():
    """And each is what the tower makes of it alone."""
    towered, batch, seen = model(), make_batch(), []
    towered.vision_model.register_forward_hook(lambda module, given, out: seen.append(len(out)))
    found = towers.see(towered, batch, {"image", *SETS})
    assert seen == [10 * sum(batch.counts.values())]
    for name, x in found.items():
        pixels = towered.normalise(batch.seen(name).flatten(0, 1))
        below = towered.vision_model(pixels)
        expected = below if name == "turned" else F.normalize(towered.visual_projection(below), dim=1)
        torch.testing.assert_close(x.reshape(expected.shape), expected)
        assert x.dim() == (2 if name in ("image", "companion", "generated") else 3), name


def test_patches_of_image_and_views_are_left_out_as_if_there_were_nothing_else():
    """By the numbers that they have always had; those of other sets are others."""
    student, batch = Student(model(), 0.5, [*LOADED]).train(), make_batch()
    bare = dataclasses.replace(batch, sets={"views": batch.views}, made={})
    kept = []
    for one in (bare, batch):
        torch.manual_seed(3)
        kept.append(student._keep(one))
    torch.manual_seed(3)
    number = (batch.index[:, None] * 3 + torch.arange(3))[..., None] * 16 + torch.arange(16)
    expected = sample_random.scramble(number + sample_random.seed(number)).argsort(-1)[..., :8]
    assert torch.equal(kept[0], expected)
    assert torch.equal(kept[1][:, :3], expected)
    rows = kept[1].flatten(0, 1)
    assert len(rows) == 10 * sum(batch.counts.values())
    assert (rows[:, None] == rows).all(2).sum() <= len(rows) + 2  # 130 of the 500 million ways to order 8 of 16


def test_a_frozen_model_of_another_size_sees_the_sets(tmp_path):
    """Resized, uint8 and floats alike, as it sees images."""
    small, words, own = model(size=24), tokenizer(), model().config.image
    small.float().save(tmp_path)
    words.save(tmp_path)
    frozen, batch = Frozen(str(tmp_path), words, own, [*SETS]), make_batch()
    assert "frozen_turned" not in frozen.provides
    found = frozen(batch, {"frozen_image", "frozen_companion", "frozen_blurred"}, {}, 0.0)
    for name, x in found.items():
        pixels = batch.seen(name.removeprefix("frozen_")).flatten(0, 1).float()
        whole = 1.0 if name == "frozen_blurred" else 255.0
        resized = F.interpolate(pixels, (24, 24), mode="bicubic", antialias=True).clamp(0, whole) / whole
        torch.testing.assert_close(x.reshape(-1, 12), frozen.model.encode_image(frozen.model.normalise(resized)))


@pytest.mark.parametrize(
    ("taught", "projection", "tower"),
    [({"turned"}, False, True), ({"turned", "blurred"}, True, True), ({"text"}, False, False)],
)
@pytest.mark.parametrize("told", [False, True])
def test_what_is_seen_below_the_projection_does_not_train_it(taught, projection, tower, told):
    student = Student(model(), 0.0, [*SETS])
    student.freeze_unasked(taught | ({"caption_states"} if told else set()))
    parts = student.model.visual_projection, student.model.vision_model.post_layernorm
    assert [part.weight.requires_grad for part in parts] == [projection, tower]
