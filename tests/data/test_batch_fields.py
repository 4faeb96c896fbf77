"""Batch fields: every row of the table comes from where the config says, padded, counted where it is bad, and is asked
for by its name alone."""

import json
import pickle

import numpy as np
import pytest
import torch

from mmclr import vocabulary
from mmclr.batch_fields import FIELDS, KINDS
from mmclr.config import ConfigError, check
from mmclr.data.pixels.augment import Augment, draw
from mmclr.data.random import key
from mmclr.data.samples.field_readers import check_asked
from mmclr.data.samples.fields import identity
from mmclr.data.stream.loader import DataConfig
from mmclr.errors import UserError
from mmclr.losses import objective
from mmclr.losses.ramp import Ramp
from mmclr.losses.weighted_sum import Term
from mmclr.train.step import Step
from tests.data.made import pair, take, write_shards, write_tar


def facts(n):
    """The json of a sample: now and then a value is missing, or said in another way."""
    found = {
        "age": None if n % 5 == 0 else f" {n}.5 " if n % 2 else n + 0.5,
        "who": f"person {n % 4}",
        "old": n % 3 == 0,
        "words": [f"t{k}" for k in range(n % 6)],
        "objects": [[0.1, 0.2, 0.3 + k / 10, 0.9] for k in range(n % 4)],
        "worth": 1 + n % 3,
    }
    return {name: value for name, value in found.items() if n % 7 or name != "who"}


GIVEN = {
    "target": "json:age",
    "group": "json:who",
    "replayed": "json:old",
    "tags": {"values": "json:words", "most": 4},
    "boxes": {"values": "json:objects", "most": 3},
    "weights": "json:worth",
    "label": "cls",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 samples in two shards."""
    path = tmp_path_factory.mktemp("fields")
    for shard in range(2):
        members = []
        for n in range(20 * shard, 20 * shard + 20):
            own = pair(n) | {"json": json.dumps(facts(n)).encode(), "cls": str(n % 9).encode()}
            members += [(f"{n}.{ending}", data) for ending, data in own.items()]
        write_tar(path / f"{shard}.tar", members)
    return path


def expected(n):
    """What each field of GIVEN is to be, from the facts alone."""
    told = facts(n)
    tags = [identity(word.encode()) for word in told["words"]][:4]
    boxes = told["objects"][:3]
    return {
        "target": np.nan if told["age"] is None else n + 0.5,
        "group": identity(told["who"].encode()) if "who" in told else -1,
        "replayed": told["old"],
        "tags": tags + [-1] * (4 - len(tags)),
        "boxes": boxes + [[np.nan] * 4] * (3 - len(boxes)),
        "weights": told["worth"],
        "label": n % 9,
    }


@pytest.mark.parametrize("more", [{}, {"workers": 2}, {"cache": "decoded"}, {"bucket": True}])
def test_every_kind_comes_from_its_place(make_loader, folder, more):
    loader = make_loader(train=str(folder / "*.tar"), batch=10, fields=GIVEN, **more)
    for batch in take(loader, 5):  # more than an epoch: some come from memory
        assert batch.fields.keys() == GIVEN.keys()
        for row, key_ in enumerate(batch.keys):
            for name, value in expected(int(key_)).items():
                np.testing.assert_allclose(batch.fields[name][row].numpy(), np.array(value), rtol=1e-6)
        for name, x in batch.fields.items():
            assert str(x.dtype).removeprefix("torch.") == KINDS[FIELDS[name].kind].dtype
            assert getattr(batch, name) is x
    lists = sum(len(facts(n)["words"]) > 4 for n in range(40))
    assert loader.ledger.counts["cut_list"] == pytest.approx(50 / 40 * lists, abs=lists)
    assert loader.ledger.lost == 0


def test_short_forms_are_rows_of_the_table(make_loader, folder):
    train = str(folder / "*.tar")
    short = take(make_loader(train=train, label="json:who", weight="json:worth"), 3)
    long = take(make_loader(train=train, fields={"label": "json:who", "weights": "json:worth"}), 3)
    for a, b in zip(short, long):
        assert a.tensors().keys() == b.tensors().keys()
        assert all(torch.equal(x, b.tensors()[name]) for name, x in a.tensors().items())


def test_fields_go_through_everything_that_is_done_to_a_batch(make_loader, folder):
    batch = take(make_loader(train=str(folder / "*.tar"), batch=10, fields=GIVEN), 1)[0]
    rows = torch.tensor([7, 0, 3])
    parts = batch.split(4)
    assert [len(part.index) for part in parts] == [4, 4, 2]
    for name, x in batch.fields.items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]).nan_to_num(9), x.nan_to_num(9))
        assert torch.equal(getattr(batch.take(rows), name).nan_to_num(9), x[rows].nan_to_num(9))
        assert batch.to("meta").fields[name].device.type == "meta"
        assert torch.equal(getattr(pickle.loads(pickle.dumps(batch)), name).nan_to_num(9), x.nan_to_num(9))
    assert {"pixels", "index", "image_box", *GIVEN} <= batch.tensors().keys()
    with pytest.raises(AttributeError, match="a batch has no tokns"):
        _ = batch.tokns


@pytest.mark.parametrize("name", [name for name, row in FIELDS.items() if row.kind != "clusters"])
def test_every_row_of_the_table_is_an_argument_that_an_objective_may_name(name, make_loader, folder):
    """Nothing but the row: an objective asks, the config says where, the step hands it over."""

    source = f"def forward(self, {name}):\n    return {name}.to(torch.float32).nan_to_num().sum()"
    space = {"torch": torch}
    exec(source, space)
    cls = type(
        "Asks", (objective.Objective,), {"forward": space["forward"], "__module__": __name__}, key=f"asks_{name}"
    )
    objective._REGISTRY.pop(cls.key)
    word = {"class": "json:who", "number": "json:age", "weight": "json:worth", "flag": "json:old"}
    where = {"tags": "json:words", "boxes": "json:objects"} | word
    batch = take(make_loader(train=str(folder / "*.tar"), fields={name: where[FIELDS[name].kind]}), 1)[0]
    step = Step({}, {"it": Term(cls(), Ramp(first=1.0, last=1.0))})
    loss, _ = step(batch, 0.0)
    assert loss.item() == pytest.approx(batch.fields[name].to(torch.float32).nan_to_num().sum().item(), rel=1e-5)
    made = vocabulary.example(name, vocabulary.Sizes(), torch.Generator())
    assert made.dim() == batch.fields[name].dim()
    assert made.is_floating_point() == batch.fields[name].is_floating_point()


def test_what_nothing_says_is_told_before_the_first_step(make_loader, folder):
    config = check(DataConfig, {"train": "x", "fields": {"tags": "json:words"}})
    check_asked(config, {"image", "label", "weights", "tags"})
    with pytest.raises(ConfigError, match=r"data.fields.boxes: an objective asks for boxes .*data.fields.boxes=json"):
        check_asked(config, {"boxes", "tags"})
    with pytest.raises(ConfigError, match="data.fields.clusters: .*=column:NAME .or data.clusters"):
        check_asked(config, {"clusters"})
    batch = take(make_loader(train=str(folder / "*.tar")), 1)[0]
    assert batch.fields.keys() == {"label", "weights"}
    with pytest.raises(ConfigError, match="data.fields.target: "):
        _ = batch.target


def test_a_blank_row_has_nothing(make_loader, folder):
    loader = make_loader(train=str(folder / "*.tar"), batch=12, tail="pad", fields=GIVEN)
    batch = take(loader, 4)[-1]
    blank = ~batch.real
    assert blank.sum() == 8
    for name, x in batch.fields.items():
        kind = KINDS[FIELDS[name].kind]
        assert torch.equal(x[blank].nan_to_num(9), torch.full_like(x[blank], kind.blank).nan_to_num(9))


def test_the_source_of_a_sample_is_a_field(make_loader, tmp_path):
    train = {
        "old": {"urls": write_shards(tmp_path / "a", [10]), "weight": 1},
        "new": {"urls": write_shards(tmp_path / "b", [10, 20], 100), "weight": 2},
    }
    loader = make_loader(train=train, batch=8, fields={"origin": "source", "replayed": "source:old"})
    assert loader.classes("origin") == 2
    assert loader.classes("label") == 0
    for batch in take(loader, 5):
        late = torch.tensor([int(key_) >= 100 for key_ in batch.keys])
        assert torch.equal(batch.origin, late.long())
        assert torch.equal(batch.replayed, ~late)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"targt": "json:a"}, "fields.targt: there is no such batch field; did you mean target?"),
        ({"target": ""}, "fields.target: name a member"),
        ({"clusters": "json:a"}, "fields.clusters: clusters come from a column: write column:NAME"),
        ({"target": "column:"}, "fields.target: write column:NAME"),
        ({"target": "source"}, "fields.target: source is the number of a source, a class, and target is a number"),
        ({"group": "source:a"}, "fields.group: source:NAME is a flag, and group is a class"),
        ({"replayed": "source:a"}, "fields.replayed: data.train has no source 'a'; it has train"),
        ({"target": {"values": "json:a", "most": 3}}, "fields.target.most: a number is one value"),
        ({"tags": {"values": "json:a", "most": -1}}, "most must be at least 1, not -1"),
        ({"tags": {"value": "json:a"}}, "fields.tags.value: unknown key"),
        ({"label": "cls"}, "label is short for fields.label; set one of them"),
    ],
)
def test_addresses_that_mean_nothing_are_told(fields, said):
    with pytest.raises(UserError) as error:
        check(DataConfig, {"train": "x", "label": "cls" if "label" in fields else "", "fields": fields})
    assert said in str(error.value)


def test_a_field_that_no_sample_has_is_told(make_loader, folder):
    with pytest.raises(UserError, match=r"data.fields.target=json:agee: no sample has it; write json:age"):
        make_loader(train=str(folder / "*.tar"), fields={"target": "json:agee"})
    with pytest.raises(UserError, match=r"data.weight=json:wort: no sample has it"):
        make_loader(train=str(folder / "*.tar"), weight="json:wort")


def test_bad_values_are_counted_faults(make_loader, tmp_path):
    """One sample of each is bad, and is one blank row each epoch."""
    bad = {
        3: {"age": "young"},
        5: {"age": True},
        8: {"boxes": [[0, 0, 2, 1]]},
        9: {"tags": [{}]},
        11: {"flag": "maybe"},
    }
    members = []
    for n in range(24):
        own = pair(n) | {"json": json.dumps({"age": 1, "boxes": [], "flag": 0, "tags": []} | bad.get(n, {})).encode()}
        members += [(f"{n}.{ending}", data) for ending, data in own.items()]
    write_tar(tmp_path / "a.tar", members)
    given = {"target": "json:age", "boxes": "json:boxes", "tags": "json:tags", "replayed": "json:flag"}
    loader = make_loader(train=str(tmp_path / "a.tar"), fields=given, faults="skip", max_faults=0.9)
    batches = take(loader, 2)
    assert loader.ledger.counts == {"bad_field": 4, "bad_label": 1}
    blank = {int(n) for batch in batches for n in batch.index[~batch.real]}
    assert blank == set(bad)


def test_the_image_box_is_the_crop(make_loader, shards):
    """A gradient is cut out where the box says: its mean colour is that of the middle of the box."""
    loader = make_loader(train=shards, augment={"crop_scale": [0.2, 0.6], "flip": 0.5}, views=1)
    batch = take(loader, 1)[0]
    left, top, right, bottom = batch.image_box.T
    assert ((left != right) & (top < bottom)).all()
    assert ((left > right).any() and (left < right).any()).item()
    assert batch.image_box.min() >= 0
    assert batch.image_box.max() <= 1
    drawn = key(np.full(12, 1), np.zeros(12, np.int64), batch.index.numpy())
    recipes = draw(Augment(crop_scale=(0.2, 0.6), flip=0.5), np.array([(40, 32)] * 12), key(drawn, 0), 24)
    for box, recipe in zip(batch.image_box, recipes):
        assert box.tolist() == pytest.approx(recipe.place((40, 32)), abs=1e-6)
    for row, number in enumerate(map(int, batch.keys)):
        middle = (((left + right) / 2 * 40)[row] - 0.5, ((top + bottom) / 2 * 32)[row] - 0.5)
        colour = [middle[0] * x + middle[1] * y + number * own for x, y, own in ((3, 1, 7), (1, 4, 11), (2, 2, 13))]
        seen = batch.pixels[row].float().mean((1, 2))
        width, height = abs(right - left)[row] * 40, (bottom - top)[row] * 32
        for want, got, x, y in zip(colour, seen, (3, 1, 2), (1, 4, 2)):
            low, high = want - (x * width + y * height) / 2 - 3, want + (x * width + y * height) / 2 + 3
            if low // 256 == high // 256:  # the gradient does not start anew within the crop
                assert got.item() == pytest.approx((want % 256).item(), abs=4)
