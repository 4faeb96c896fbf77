"""What a resumed run may change: the table is whole, what stays is refused, what may change loses no sample."""

import dataclasses
import os
import re
from collections import Counter

import pytest

from mmclr.data.stream.loader import DataConfig
from mmclr.data.stream.resume import MAY_CHANGE, STAY
from mmclr.errors import UserError
from tests.data.made import pair, take, write_tar

STAYING = {"train", "subset", "order", "pure", "block", "window"}


def ids(loader, count):
    return [number for batch in take(loader, count) for number in batch.index.tolist()]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Shards of one name and size; what is in them differs."""
    urls = []
    for begin in (100, 200):
        folder = tmp_path_factory.mktemp("source")
        write_tar(
            folder / "a.tar", [(f"{n}.{end}", data) for n in range(begin, begin + 30) for end, data in pair(n).items()]
        )
        urls.append(str(folder / "a.tar"))
    assert len({os.stat(url).st_size for url in urls}) == 1
    return urls


def test_the_table_has_every_key():
    assert {field.name for field in dataclasses.fields(DataConfig)} == STAYING | MAY_CHANGE
    assert not STAYING & MAY_CHANGE
    assert {key.removeprefix("data.") for key, _ in STAY.values()} == STAYING | {"seed", "batch"}


def mixture(two, *weights, names="ab"):
    return {name: {"urls": url, "weight": weight} for name, url, weight in zip(names, two, weights)}


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ({}, {"block": 4}, "data.block: .* was 1 .* is 4 "),
        ({"block": 4}, {}, "data.block: .* was 4 .* is 1 "),
        ({"block": 4}, {"block": 4, "window": 2}, "data.window: .* was 16 .* is 2 "),
        ({"train": (3, 1)}, {"train": (1, 1)}, "data.train: the ratio .* was 3:1 .* is 1:1 "),
        ({"train": (1, 1)}, {"train": (1, 1), "turned": True}, "data.train: "),
        ({}, {"seed": 2}, "seed: .* was 1 .* is 2 "),
    ],
)
def test_another_order_is_refused_with_key_old_and_new(before, after, key, make_loader, two):
    def make(settings):
        settings = dict(settings)
        sources = two[::-1] if settings.pop("turned", False) else two
        if "train" in settings:
            settings["train"] = mixture(sources, *settings["train"])
        return make_loader(**settings)

    first, second = make(before), make(after)
    take(first, 2)
    with pytest.raises(UserError, match=rf"^{key}.*cannot go on where it stopped.*init.source="):
        second.load_state_dict(first.state_dict())
    again = make(before)
    again.load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    "after",
    [{"batch": 7}, {"tail": "pad"}, {"faults": "skip"}, {"caption": "json:title"}, {"workers": 1}, {"window": 3},
     {"label": "json:number"}, {"bucket": True}, {"cache": "decoded"}, {"resample": "box"}],
)  # fmt: skip
def test_what_may_change_loses_no_sample(after, make_loader):
    """Each of the 53 samples once in the epoch in which the change was made."""
    first, second = make_loader(), make_loader(**after)
    seen = ids(first, 2)
    second.load_state_dict(first.state_dict())
    seen += [number for number in ids(second, 6) if number >= 0]
    whole = 48 if "bucket" in after else 53  # the batch in which the epoch ends is sorted
    assert max(Counter(seen[:whole]).values()) == 1
    assert set(seen) == set(range(53))


def test_names_and_scale_of_a_mixture_may_change(make_loader, two):
    first = make_loader(train=mixture(two, 3, 1))
    second = make_loader(train=mixture(two, 0.75, 0.25, names="xy"))
    second.load_state_dict(first.state_dict())


def test_checkpoints_of_before_say_less_and_are_read(make_loader):
    state = make_loader().state_dict()
    for name in ("keys", "rows", "block"):
        del state[name]
    make_loader().load_state_dict(state)
    with pytest.raises(UserError, match="data.block"):
        make_loader(block=4).load_state_dict({**state, "block": 1})


def test_the_message_names_no_python(make_loader):
    state = {**make_loader().state_dict(), "groups": "abc"}
    with pytest.raises(UserError) as error:
        make_loader().load_state_dict(state)
    assert re.search(r"data.pure: .* was abc .* is none ", str(error.value))
