"""What a pattern names: paths as they are written, no command unasked, none of our own files."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmclr.data.shards.addresses import Command, allowed
from mmclr.data.shards.index import open_index
from mmclr.data.shards.sources import expand
from mmclr.errors import UserError
from tests.data.made import write_shards, write_tar

NAMES = ["my [data]", "{a,b}", "~", "a#b", "50%", "ü 日本", "a b", "[x", "x]", "?", "a:b", "{1..3}", "$x", "a*b", "x{"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_exists_is_no_pattern(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    write_shards(folder, [1, 1])
    path = str(folder / "00000.tar")
    assert expand(path) == [path]
    two = [path, str(folder / "00001.tar")]
    assert expand(f"{folder}/{{00000..00001}}.tar") == two
    assert expand(f"{folder}/*.tar") == two
    (folder / f"{name}.tar").write_bytes(b"")
    assert expand(f"{folder}/{name}.tar") == [f"{folder}/{name}.tar"]
    monkeypatch.chdir(folder)
    assert expand("00000.tar") == ["00000.tar"]


GUISES = [
    "pipe:{}", " pipe:{}", "PIPE:{}", "Pipe:{}", "{{pipe:{},x.tar}}", "{{x,p}}ipe:{}", "x.tar::pipe:{}", "\tpipe:{}",
    "simplecache::pipe:{}", "pi{{p,q}}e:{}", "file:pipe:{}", "local://pipe:{}", "{{,x}}pipe:{}", "pipe://{}",
]  # fmt: skip
STRANGERS = ["ssh", "sftp", "github", "git", "zip", "reference", "simplecache", "data", "jupyter", "smb"]
NOTHING = ["a{b.tar", "{0..99999999999}.tar", "{0..9999}{0..9999}.tar", "${NOT_SET_AT_ALL}", "a\0b", "::"]
OTHERS = [
    "x.tar.index",
    "0.tar.tmp",
    ".0.tar.index.x.tmp",
    "packed.json",
    "0.tar.c.npy",
    "c.clusters.json",
    "README.md",
]


@pytest.mark.parametrize("guise", GUISES)
def test_no_command_runs_unasked(tmp_path, monkeypatch, guise):
    monkeypatch.chdir(tmp_path)
    for text in (guise.format("touch ran"), [guise.format("touch ran")]):
        with pytest.raises(UserError):
            [open_index(url) for url in expand(text)]
        assert not os.path.exists("ran")


def test_a_file_that_is_called_like_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "pipe:touch ran;.tar", [])
    for pattern in ("*.tar", "pipe*", "{*,}"):
        for url in expand(pattern):
            assert not isinstance(url, Command)
            open_index(url)
    with pytest.raises(UserError, match="runs a shell command"):
        open_index("pipe:touch ran")
    assert not os.path.exists("ran")


@given(st.text(st.sampled_from("pipe:PIPE {},.*[]/\\~x0"), max_size=20))
def test_no_text_becomes_a_command(text):
    try:
        found = expand(text)
    except UserError:
        return
    assert not any(isinstance(url, Command) for url in found)


@pytest.mark.parametrize(
    "name", ["ssh", "sftp", "github", "git", "zip", "reference", "simplecache", "data", "jupyter", "smb"]
)
def test_only_stores_are_opened(name):
    with pytest.raises(UserError, match=f"not read from {name}://"):
        expand(f"{name}://host/a.tar")
    with pytest.raises(UserError):
        open_index(f"{name}://host/a.tar")
    with pytest.raises(UserError, match="chained"):
        allowed(f"http://host/a.tar::{name}://b")


def test_star_takes_shards_alone(tmp_path):
    write_shards(tmp_path, [2, 2])
    for name in OTHERS:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    for _ in range(2):
        found = expand(f"{tmp_path}/*")
        assert found == [str(tmp_path / f"0000{n}.tar") for n in range(2)]
        assert [len(open_index(url)) for url in found] == [2, 2]
    with pytest.raises(UserError, match=r"no shard matches this pattern \(1 of other kinds: .*mmclr data pack"):
        expand(f"{tmp_path}/*.md")


@pytest.mark.parametrize(
    "text", ["a{b.tar", "{0..99999999999}.tar", "{0..9999}{0..9999}.tar", "${NOT_SET_AT_ALL}", "a\0b", "::"]
)
def test_patterns_that_mean_nothing(text):
    with pytest.raises(UserError):
        [open_index(url) for url in expand(text)]


def test_files_as_addresses(tmp_path, monkeypatch):
    write_shards(tmp_path / "a b", [2])
    for url in (
        f"file://{tmp_path}/a b/*.tar",
        f"file:{tmp_path}/a%20b/00000.tar",
        f"FILE://{tmp_path}/a b/00000.tar",
        f"local://{tmp_path}/a b/00000.tar",
        f"file://localhost{tmp_path}/a b/00000.tar",
    ):
        assert [len(open_index(path)) for path in expand(url)] == [2], url
