"""A format of exports is a file: by its FORMAT the card says how to use a folder, and verify loads it again."""

import json
import sys

import pytest

from mmclr.errors import UserError
from mmclr.export import commands, parity
from mmclr.export.commands import onnx, open_clip, transformers, verify

OWN = '''"""Write a folder of my own format."""

from mmclr.export.format import Format

FORMAT = Format("own.bin", "own", "Call it {name}.")


def main(argv):
    """Write it."""
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A format in a further folder of the room, as if it had been written into it."""
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "zz_own.py").write_text(OWN)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path / "room")])
    yield "mmclr.export.commands.zz_own"
    sys.modules.pop("mmclr.export.commands.zz_own", None)


def holding(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")
    return folder


def test_a_folder_is_told_by_its_file(own, tmp_path):
    """config.json of transformers, which others have too, tells least."""
    assert verify._module(holding(tmp_path / "a", "config.json")) is transformers
    assert verify._module(holding(tmp_path / "b", "config.json", "image.onnx")) is onnx
    assert verify._module(holding(tmp_path / "c", "config.json", "open_clip_config.json")) is open_clip
    assert verify._module(holding(tmp_path / "d", "config.json", "own.bin")).__name__ == own


def test_what_is_no_export_is_a_sentence(own, tmp_path):
    with pytest.raises(UserError, match=r"none of image\.onnx, .*own\.bin, config\.json there, so it is not an export"):
        verify._module(holding(tmp_path / "none", "notes.txt"))


def test_files_are_held_to_their_hashes(tmp_path, capsys):
    folder = holding(tmp_path / "a", "config.json")
    (folder / parity.REPORT).write_text(json.dumps({"files": parity.hashes(folder)}))
    verify.main([str(folder), "--json"])
    found = {"folder": str(folder), "checkpoint": None, "largest_differences": {}}
    assert json.loads(capsys.readouterr().out) == found
    (folder / "config.json").write_text("{} ")
    with pytest.raises(UserError, match=r"config\.json changed"):
        verify.main([str(folder), "--json"])
