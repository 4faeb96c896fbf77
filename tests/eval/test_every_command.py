"""No command replaces or removes what it did not write, and each says in a sentence what it cannot read.

Each is run where others' files have its outputs' names, and where its inputs are not there or broken. A command's own
test may say how to run it: WRITES = {"data NAME": [arguments, ...]}, with {here} and {out} as below.
"""

import ast
import shutil
from pathlib import Path

import pytest

from mmclr.cli import commands, main
from mmclr.data import columns
from mmclr.data.shards.index import open_indices
from mmclr.storage import manifest
from tests.trees import tree

ROOT = Path(__file__).parent.parent.parent
MINE = {".git/HEAD": "ref", "notes.txt": "mine", "0.tar.tmp": "mine", "model.safetensors.bak": "mine"}
SET = ["--data", "{here}/shards/{{0..1}}.tar"]
# command: its arguments, writing into {out} ("": a folder that it makes is {out} itself)
WRITE = {
    "papers": ["--write", "{out}/PAPERS.md"],
    "report": ["{here}/results/a.json", "--out", "{out}/page.html"],
    "data verify": ["{here}/shards/0.tar", "--workers", "0", "--json", "{out}/faults.jsonl"],
    "data peek": ["{here}/shards/0.tar", "{out}/sheet.png", "--samples", "4"],
    "data tokenizer": ["{here}/shards/0.tar", "{out}/words", "--size", "560"],
    "data pack": ["{here}/images", "{out}", "--workers", "0"],
    "data reshard": ["{here}/shards/0.tar", "{out}", "--samples", "7"],
    "data columns": ["export", "{here}/shards/0.tar", "n", "--out", "{out}/n.parquet"],
    "data to-eval": [*SET, "--out", "{out}", "--shards", "2"],
    "data index": ["{out}/0.tar"],
    "eval retrieval": ["{here}/model", *SET, "--out", "{out}/r.json"],
    "eval all": ["{here}/model", "--tasks", "{here}/tasks.yaml", "--out", "{out}"],
    "eval compare": [
        "{here}/results/a.json", "{here}/results/b.json",
        "--out", "{out}/c.json", "--csv", "{out}/c.csv", "--markdown", "{out}/c.md",
    ],
    "export transformers": ["{here}/model", "{out}/model"],
    "export open_clip": ["{here}/model", "{out}/model"],
    "export stages": ["{here}/model", "{here}/model", "{out}/model"],
    "import": ["{here}/model", "{out}/model"],
    "train": ["debug.yaml", "data.train={here}/shards/0.tar", "out={out}", "steps=2", "trackers=none"],
}  # fmt: skip


def told():
    """Return what the tests of single commands say in WRITES, read and not imported."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body if "\nWRITES = " in text else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "WRITES":
                found |= ast.literal_eval(node.value)
    return found


WRITE |= told()
ELSEWHERE = {  # command: why it is not in the table
    "demo": "its stages are commands above: icons, tokenizer, train, export, report",
    "compare": "trains in processes of its own; its three files are written as eval compare's",
    "export onnx": "needs another package; writes through the same function as the other exports",
    "export hub": "sends a folder that it wrote as the other exports do",
    "data icons": "tests/data/test_icons.py",
    "data caption": "writes through the same class as data reshard",
    "caption": "needs a captioner: tests/data/test_caption.py; tests/storage/test_written.py has its file",
    "doctor": "writes into the environment with --fix alone, where it was asked to",
    "eval": "writes as eval retrieval does",
    **{name: "the same suite class as eval retrieval" for name in commands() if name.startswith("eval ")},
    **dict.fromkeys(("data stats", "data bench", "export verify", "check"), "writes nothing"),
}
# Who may call what changes the disk, and why: everything else goes through mmclr.storage.written.
CALLS = {"write_text", "write_bytes", "rmtree", "unlink", "rename", "rmdir", "copy2", "copyfile"}
MODULES = {
    "mmclr/storage/written.py": "this is it",
    "mmclr/storage/manifest.py": "this is it",
    "mmclr/storage/whole_file.py": "whole files, for a run's log",
}


@pytest.fixture
def here(tmp_path, shards, model_folder):
    """Return a folder with everything that commands read."""
    here = tmp_path / "here"
    (here / "shards").mkdir(parents=True)
    for name in ("0.tar", "1.tar"):
        shutil.copy(tmp_path / name, here / "shards")
    shutil.copytree(model_folder, here / "model")
    (here / "images").mkdir()
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (20, 20), (i, 9, 9)).save(here / "images" / f"{i}.png")
        (here / "images" / f"{i}.txt").write_text(f"image {i}")
    for index in open_indices([str(here / "shards/0.tar")]):
        with columns.write(index, "n", columns.Kind("int32")) as column:
            column.put([0], [7])
    (here / "tasks.yaml").write_text(f"one: {{suite: retrieval, data: '{here}/shards/0.tar'}}\n")
    for name in "ab":
        out = here / "results" / f"{name}.json"
        assert (
            main(["eval", "retrieval", str(here / "model"), "--data", str(here / "shards/0.tar"), "--out", str(out)])
            == 0
        )
    return here


def run(command, here, out):
    if command == "data index" and not (out / "0.tar").exists():
        shutil.copy(here / "shards" / "0.tar", out)
    given = [text.format(here=here, out=out) for text in WRITE[command]]
    return main([*command.split(), *given])


def plant(out, files):
    for name, text in files.items():
        if not (out / name).exists():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text)


@pytest.mark.parametrize("command", WRITE)
def test_others_files_stay(command, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, taken = tmp_path / "first", tmp_path / "taken"
    for out in (first, taken):
        out.mkdir()
    before = tree(here)
    assert run(command, here, first) == 0
    made = {n: s for n, s in tree(first).items() if s != "/" and n != "0.tar" and manifest.MANIFEST not in n}
    assert made
    plant(first, MINE)  # an update beside others' files
    mine = {name: (first / name).read_bytes() for name in MINE}
    run(command, here, first)
    assert {name: (first / name).read_bytes() for name in MINE} == mine
    plant(taken, {name: f"mine: {name}" for name in made})
    plant(taken, MINE)
    if command == "data index":
        shutil.copy(here / "shards" / "0.tar", taken)
    was = tree(taken)
    status = run(command, here, taken)
    now = tree(taken)
    assert {name: now.get(name) for name in was} == was
    assert status == 2 or command == "data index"  # which has a second place for what it makes
    assert {n: s for n, s in tree(here).items() if n in before} == before


BROKEN = {  # what lies where a command reads
    "nothing": None,
    "an empty file": b"",
    "noise": bytes(range(256)) * 8,
    "text": b"{nothing: that\n any of them reads",
}
INPUTS = ("shards/0.tar", "shards/1.tar", "model/config.json", "images/0.png", "tasks.yaml", "results/a.json",
          "results/b.json")  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("command", [name for name in WRITE if name != "papers"])
def test_what_cannot_be_read_is_a_sentence(command, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    here, out = tmp_path / "here", tmp_path / "out"
    out.mkdir()
    given = [text.format(here=here, out=out) for text in WRITE[command]]
    for path in [here / name for name in INPUTS] + [out / "0.tar"] * (command == "data index"):
        if BROKEN[what] is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(BROKEN[what])
    before = tree(here)
    status = main([*command.split(), *given])
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert status == 2 or (status == 1 and command in ("data index", "data verify", "data pack"))  # which list faults
    if status == 2:
        line, *examples = said.err.splitlines()
        assert line.startswith(f"mmclr {command}: ")
        assert str(tmp_path) in line, "it says where"
        assert all(example.startswith(("  ", "1 ", "2 ")) for example in examples)  # counts of faults, and some of them
    assert {name: text for name, text in tree(here).items() if not name.endswith(".index")} == before


def test_every_command_is_in_the_table():
    assert set(commands()) <= WRITE.keys() | ELSEWHERE.keys()
    assert WRITE.keys() <= set(commands())


def writers(path):
    """Return the lines of a file that change the disk without mmclr.storage.written."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        where = node.func.value if isinstance(node.func, ast.Attribute) else None
        name = node.func.attr if where is not None else getattr(node.func, "id", "")
        module = isinstance(where, ast.Name) and where.id in ("os", "shutil")
        texts = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        opens = name == "open" and any(isinstance(text, str) and text in ("w", "wb", "x", "xb", "wt") for text in texts)
        if opens or (where is not None and name in CALLS) or (module and name in ("replace", "copy")):
            found.append(node.lineno)
    return found


KNOWN = {  # room: why what it writes is its own
    "mmclr/train": "a run's folder, claimed by ownership.claim; checkpoints have a list of their files",
    "mmclr/export": "the empty folder that mmclr.storage.written.folder gave",
    "mmclr/models": "the empty folder that mmclr.storage.written.folder or a checkpoint gave",
    "mmclr/data/shards/index.py": "a sidecar, after _replaceable",
    "mmclr/data/shards/cache.py": "the user's cache of ours",
    "mmclr/data/shards/subset.py": "the user's cache of ours",
    "mmclr/data/shards/streams.py": "the user's cache of ours",
    "mmclr/doctor": "a probe of its own, and what --fix was asked for",
    "mmclr/config.py": "only tests call save",
    "eval/sets/layout.py": "the empty folder that mmclr.storage.written.folder gave",
    "eval/embed/store.py": "the user's cache of ours",
    "data_tools/lib/shard_writer.py": "shards that packed.json names",
    "data_tools/commands/convert/icons.py": "an archive in memory",
    "data_tools/commands/inspect/verify.py": "a name that mmclr.storage.written gave",
    "mmclr/data/columns/of_shard.py": "a name that mmclr.storage.written gave",
    "eval/result.py": "a name that mmclr.storage.written gave",
}


def test_nothing_is_written_past_the_one_mechanism():
    for top in ("mmclr", "eval", "data_tools"):
        for path in sorted((ROOT / top).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name in MODULES or any(name == room or name.startswith(f"{room}/") for room in KNOWN):
                continue
            assert not writers(path), (
                f"{name}:{writers(path)}: write through mmclr.storage.written, or say here why not"
            )
