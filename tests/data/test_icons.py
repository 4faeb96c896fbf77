"""The demo's data: real icons with their names, from fonts that are on disk."""

import importlib.util
import io
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mmclr.data_tools.commands.convert import icons
from PIL import Image

from mmclr.errors import UserError

needs_fonts = pytest.mark.skipif(
    importlib.util.find_spec("qtawesome") is None, reason="the fonts come with pip install 'mmclr[demo]'"
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("icons")
    return folder, icons.pack(folder, size=32)


def members(shard):
    with tarfile.open(shard) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]


def samples(folder, split):
    """Read the shards the long way round, with nothing of mmclr."""
    out = {}
    for shard in sorted(folder.glob(f"{split}-*.tar")):
        for member, data in members(shard):
            key, suffix = member.name.split(".")
            assert suffix not in out.setdefault(key, {}), f"{member.name} comes twice"
            out[key][suffix] = data
    return out


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("home-2-fill", "home"),
        ("cloud-off-line", "cloud off"),
        ("line-chart-fill", "line chart"),
        ("traffic-light-line", "traffic light"),
        ("traffic-light", "traffic light"),
        ("line-line", "line"),
        ("bold", "bold"),
        ("css3-fill", "css3"),
        ("surround-sound-5-1-2", "surround sound"),
        ("book-open-variant-outline", "book open"),
        ("4k-fill", "4k"),
        ("7", "7"),
    ],
)
def test_plain_name(name, plain):
    assert icons.plain_name(name) == plain
    assert icons.plain_name(name.split("-")[0]) == name.split("-")[0]


@needs_fonts
def test_counts_are_the_fonts(packed):
    """Every entry of the name tables is packed once or counted as blank; the unseen family has the issue's counts."""
    folder, summary = packed
    fonts = Path(importlib.util.find_spec("qtawesome").origin).parent / "fonts"
    tables = {path.name: json.loads(path.read_text()) for path in fonts.glob("*-charmap-*.json")}
    wanted = {n: t for n, t in tables.items() if not n.startswith(("fontawesome5", "materialdesignicons5"))}
    assert summary["train"]["pairs"] + summary["test"]["pairs"] + len(summary["blank"]) == sum(
        map(len, wanted.values())
    )
    assert summary["test"]["pairs"] == 2271
    assert 930 <= summary["test"]["names"] <= 960
    assert summary["train"]["pairs"] > 14_000
    assert set(summary["blank"]) == {"fa-solid-notdef", "codicon-blank"}
    assert len(samples(folder, "train")) == summary["train"]["pairs"]
    assert "qtawesome" not in sys.modules


@needs_fonts
def test_every_phosphor_icon_says_the_weight_of_its_lines(packed):
    told = [json.loads(sample["json"]) for sample in samples(packed[0], "train").values()]
    lines = {
        name: Counter(f["stroke"] for f in told if f["name"].endswith(name) and "stroke" in f)
        for name in ("thin", "bold")
    }
    assert lines == {"thin": Counter({100: 894}), "bold": Counter({700: 894})}
    assert Counter(f.get("stroke", 0) for f in told if f["family"] == "phosphor") == Counter(
        {100: 894, 300: 894, 400: 894, 700: 894, 0: 894}  # 0: filled shapes
    )
    assert not any("stroke" in f for f in told if f["family"] != "phosphor")


@needs_fonts
def test_samples_are_whole_and_show_something(packed):
    folder, _ = packed
    test = samples(folder, "test")
    assert {frozenset(sample) for sample in test.values()} == {frozenset({"png", "txt", "json"})}
    assert {json.loads(sample["json"])["family"] for sample in test.values()} == {"remix"}
    for sample in test.values():
        fields = json.loads(sample["json"])
        assert sample["txt"].decode() == fields["plain"]
        assert fields["full"].startswith(fields["plain"])
        ink = 255 - np.asarray(Image.open(io.BytesIO(sample["png"])))
        assert ink.shape == (32, 32)
        assert ink.max() > 150
        assert not ink[:2].any()
        assert not ink[-2:].any()
        assert not ink[:, :2].any()
        assert not ink[:, -2:].any()
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        assert abs(rows[0] + rows[-1] - 31) <= 1, "centred up and down"
        assert abs(columns[0] + columns[-1] - 31) <= 1, "centred left and right"


@needs_fonts
def test_drawings_are_what_their_names_say(packed):
    """Known shapes, as images: a filled heart has more ink than its outline, a plus is symmetric, a minus is flat."""
    train = samples(packed[0], "train")
    ink = {k: 255.0 - np.asarray(Image.open(io.BytesIO(s["png"]))) for k, s in train.items()}
    assert ink["mdi-heart"].sum() > 1.5 * ink["mdi-heart-outline"].sum()
    assert ink["phosphor-heart-thin"].sum() < ink["phosphor-heart"].sum() < ink["phosphor-heart-bold"].sum()
    assert np.abs(ink["mdi-plus"] - ink["mdi-plus"].T).sum() < 0.15 * ink["mdi-plus"].sum()
    minus = ink["mdi-minus"]
    assert minus.any(0).sum() > 4 * minus.any(1).sum()


@needs_fonts
def test_shards_mix_the_families_and_are_plain_tar(packed):
    folder, summary = packed
    for shard in sorted(folder.glob("train-*.tar")):
        inside = members(shard)
        assert 3 * 900 <= len(inside) <= 3 * 1100
        assert len({member.name.split("-")[0] for member, _ in inside}) >= 5
        assert b"PaxHeader" not in shard.read_bytes()
        assert {(member.mtime, member.uid, member.mode) for member, _ in inside} == {(0, 0, 0o644)}
    assert summary["train"]["url"] == f"train-{{00000..{len(list(folder.glob('train-*.tar'))) - 1:05d}}}.tar"


@pytest.fixture
def two_families(monkeypatch):
    monkeypatch.setattr(icons, "FAMILIES", [f for f in icons.FAMILIES if f.key in ("elusive", "remix")])


@needs_fonts
@pytest.mark.usefixtures("two_families")
def test_same_bytes_and_no_second_rendering(tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    summary = icons.pack(one, size=16)
    assert icons.pack(two, size=16) == summary
    assert len(list(one.glob("[!.]*"))) == 1 + 1 + 2
    for path in one.glob("[!.]*"):
        assert (two / path.name).read_bytes() == path.read_bytes()
    monkeypatch.setattr(icons, "_draw", lambda *_: pytest.fail("rendered what was already packed"))
    assert icons.pack(one, size=16) == summary


@needs_fonts
@pytest.mark.usefixtures("two_families")
def test_half_packed_folder_is_packed_again(tmp_path):
    summary = icons.pack(tmp_path, size=16)
    shard = tmp_path / "train-00000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-512])  # who knows who did that: it is not replaced
    with pytest.raises(UserError, match=r"train-00000\.tar: exists and is not \(or no longer\) what mmclr wrote"):
        icons.pack(tmp_path, size=16)
    shard.unlink()
    assert icons.pack(tmp_path, size=16) == summary
    assert shard.read_bytes() == whole

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(icons, "_tar", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            icons.pack(tmp_path, size=24)
    assert icons.pack(tmp_path, size=16) == summary
    assert shard.read_bytes() == whole
    assert not list(tmp_path.glob("*.tmp"))


@needs_fonts
def test_refuses_a_folder_with_other_shards(tmp_path):
    (tmp_path / "train-00000.tar").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"train-00000\.tar.*another folder"):
        icons.pack(tmp_path)
    assert (tmp_path / "train-00000.tar").read_bytes() == b"mine"


def test_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'mmclr\[demo\]'"):
        icons.pack(tmp_path)


def test_refuses_a_size_that_shows_nothing(tmp_path):
    with pytest.raises(UserError, match="at least 8"):
        icons.pack(tmp_path, size=4)
