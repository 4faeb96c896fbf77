"""A checkpoint is what was written, to the bit, or passed over: by what goes on from it and by what reads a model."""

import json
import shutil

import pytest

import mmclr
from mmclr.errors import UserError
from mmclr.models.formats import find
from mmclr.train.checkpoints import folder as checkpoint
from mmclr.train.checkpoints import state
from tests.train.snapshots import snapshot


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with whole checkpoints after 2 and 4 steps."""
    out = tmp_path_factory.mktemp("run")
    for step in (2, 4):
        folder = checkpoint.folder_of(out, step)
        folder.parent.mkdir(exist_ok=True)
        snapshot(step).write(folder)
    return out


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize("stride", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_every_bit_of_the_position_counts(run, stride):
    """The same content (a byte of white space that is another), or named: never another position."""
    path = checkpoint.folder_of(run, 4) / "position.json"
    data, real = path.read_bytes(), json.loads(path.read_bytes())
    try:
        for bit in range(0, len(data) * 8, stride):
            flip(path, bit)
            wrong = checkpoint.fault(path.parent, read=())
            if not wrong:
                assert str(json.loads(path.read_bytes())) == str(real), f"bit {bit} is taken as it is"
            else:
                assert wrong == "position.json is damaged"
            path.write_bytes(data)
    finally:
        path.write_bytes(data)


def test_a_bit_of_any_file_counts(run):
    folder = checkpoint.folder_of(run, 4)
    for path in [p for p in sorted(folder.rglob("*")) if p.is_file()]:
        data = path.read_bytes()
        for bit in {0, len(data) * 4, len(data) * 8 - 1}:
            flip(path, bit)
            assert "is damaged" in checkpoint.fault(folder), path
            assert checkpoint.latest(run) == checkpoint.folder_of(run, 2)
            path.write_bytes(data)
    assert checkpoint.fault(folder) == ""
    assert checkpoint.latest(run) == folder


def test_the_order_of_keys_and_white_space_do_not_count(run, tmp_path):
    folder = tmp_path / "step-00000004"
    shutil.copytree(checkpoint.folder_of(run, 4), folder)
    tree = json.loads((folder / "position.json").read_text())
    (folder / "position.json").write_text(json.dumps(dict(reversed(tree.items()))))
    assert checkpoint.fault(folder) == ""
    shutil.move(folder, tmp_path / "step-00000006")
    assert checkpoint.fault(tmp_path / "step-00000006") == "position.json is damaged", "it is of another step"
    shutil.move(tmp_path / "step-00000006", tmp_path / "the best")
    assert checkpoint.fault(tmp_path / "the best") == ""


def test_checkpoints_of_before_are_read_as_they_are(run, tmp_path):
    """Those with sizes alone, and those with nothing."""
    folder = tmp_path / "checkpoints" / "step-00000004"
    shutil.copytree(checkpoint.folder_of(run, 4), folder)
    tree = json.loads((folder / "position.json").read_text())
    del tree["crc32"], tree["checksum"]
    (folder / "position.json").write_text(json.dumps(tree))
    assert checkpoint.latest(tmp_path) == folder
    (folder / "config.yaml").write_text("cut")
    assert "config.yaml has 3 of" in checkpoint.fault(folder)
    (folder / "position.json").write_text(json.dumps({"step": 4}))
    assert checkpoint.latest(tmp_path) == folder


@pytest.mark.parametrize("text", ['{"step": 4}', '{"step": 4, "loader": 3, "guard": [], "scale": 1, "best": 0}'])
def test_a_position_of_before_that_lacks_something_is_a_sentence(run, tmp_path, text):
    folder = tmp_path / "step-00000004"
    shutil.copytree(checkpoint.folder_of(run, 4), folder)
    (folder / "position.json").write_text(text)
    with pytest.raises(UserError, match=r"step-00000004.*is damaged.*resume=another checkpoint, or never"):
        state.give_rest(None, folder)


@pytest.mark.parametrize("name", ["average/model.safetensors", "model/tokenizer.json", "config.yaml", "position.json"])
def test_who_reads_a_model_passes_over_what_is_damaged_and_says_so(run, name, capfd):
    """`mmclr.load`, and with it eval, export and search: as a resume does."""
    newest = checkpoint.folder_of(run, 4)
    data = (newest / name).read_bytes()
    flip(newest / name, len(data) * 4)
    try:
        assert find.find(run) == checkpoint.folder_of(run, 2) / "average"
        said = capfd.readouterr().err
        assert "step-00000004: this checkpoint is not whole" in said
        assert f"{name} is damaged" in said
        assert "passed over, step-00000002 is taken" in said
        for named in (newest, newest / "average"):
            with pytest.raises(UserError, match="step-00000004: this checkpoint is not whole"):
                find.find(named)
    finally:
        (newest / name).write_bytes(data)
    assert find.find(run) == newest / "average"
    assert mmclr.load(run).encode_text("cloud").shape == (1, 8)


def test_a_run_without_a_whole_checkpoint_has_no_model(run, tmp_path):
    shutil.copytree(checkpoint.folder_of(run, 4), tmp_path / "checkpoints" / "step-00000004")
    flip(tmp_path / "checkpoints" / "step-00000004" / "average" / "model.safetensors", 99_999)
    with pytest.raises(UserError, match="average/model.safetensors is damaged.*nor is any other of"):
        find.find(tmp_path)
