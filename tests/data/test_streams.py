"""`pipe:` shards are copied once and then are like any other."""

import pytest

from mmclr.data.shards.sources import cache_folder
from mmclr.errors import UserError
from tests.data.made import RANDOM, rows, take, write_shards


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_pipe_equals_files(make_loader, tmp_path):
    write_shards(tmp_path / "in", [20, 13])
    names = f"{tmp_path}/in/{{00000..00001}}.tar"
    ran = tmp_path / "ran"
    pipe = f"pipe:echo x >> {ran}; cat {names}"
    for workers in (0, 2):
        piped = make_loader(train=pipe, allow_pipe=True, workers=workers, **RANDOM)
        assert [rows(b) for b in take(piped, 4)] == [rows(b) for b in take(make_loader(train=names, **RANDOM), 4)]
    assert ran.read_text() == "x\n" * 2  # once for each shard, whatever follows


def test_failing_command(make_loader, tmp_path):
    with pytest.raises(UserError, match=r"pipe:cat … \S*none\.tar: the command failed \(status 1\)"):
        make_loader(train=f"pipe:cat {tmp_path}/none.tar", allow_pipe=True)
    with pytest.raises(UserError, match=r"pipe:none ….*: the command failed \(status 127\)") as said:
        make_loader(train="pipe:none --header 'token: abc' https://me:secret@host/a.tar", allow_pipe=True)
    assert not any(secret in str(said.value) for secret in ("abc", "secret"))
    assert not list((cache_folder() / "streams").glob("*.tar*mp"))
    with pytest.raises(UserError, match="no usable sample"):
        make_loader(train="pipe:true", allow_pipe=True)


def test_off_by_default(make_loader, tmp_path):
    with pytest.raises(UserError, match="allow_pipe=true"):
        make_loader(train=f"pipe:touch {tmp_path}/ran")
    assert not (tmp_path / "ran").exists()
