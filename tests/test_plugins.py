"""The user's own parts: files and modules are loaded once, say what fails in them, and take nobody's key."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys

import pytest
import yaml
from mmclr.eval import suites

from mmclr import heads, plugins
from mmclr.cli import main
from mmclr.config import ConfigError, load
from mmclr.errors import UserError
from mmclr.losses import build, catalogue
from mmclr.losses.objective import _REGISTRY
from mmclr.papers import catalogue as papers
from mmclr.papers import page
from mmclr.train.run import RunConfig
from tests import parts

OWN = '''
from __future__ import annotations
from torch import Tensor
from mmclr import parallel
from mmclr.losses.objective import Objective

class Own(Objective, key="{key}", cost="local"):
    """Mine."""

    power: float = 2.0  # of the distance

    def forward(self, image: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        return parallel.mean((image - text).abs().pow(self.power).sum(1), weights)
'''
HEAD = '''
from torch.nn import functional as F
from mmclr.heads import Head, HeadConfig

class Turn(Head):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x, side, weights=None):
        return F.normalize(x.flip(-1), dim=-1)

class Turned(HeadConfig, key="{key}"):
    """Turned round."""

    by: int = 1  # steps

    def make(self, width):
        return Turn(width)
'''


@pytest.fixture(autouse=True)
def _as_before():
    with parts.as_before():
        yield


@pytest.fixture
def shards(tmp_path):
    return parts.shard(tmp_path / "0.tar")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def run_config(*overrides):
    return load(RunConfig, "debug.yaml", ["data.train=x.tar", "steps=1", *overrides])


def test_a_file_and_a_module_bring_objectives_and_heads(tmp_path):
    file = write(tmp_path / "own.py", OWN.format(key="mine_of_a_file"))
    write(tmp_path / "somebodys.py", HEAD.format(key="turned"))
    sys.path.insert(0, str(tmp_path))
    plugins.load([file, "somebodys"])
    assert build("mine_of_a_file", {"power": 1.5}).power == 1.5
    assert heads.build({"use": "turned", "by": 3}).by == 3
    assert plugins.origin(catalogue()["mine_of_a_file"]) == file
    assert plugins.origin(heads.catalogue()["turned"]) == "somebodys"
    assert plugins.origin(catalogue()["clip"]) == ""


def test_each_is_loaded_once(tmp_path):
    file = write(tmp_path / "own.py", f"with open({str(tmp_path / 'times')!r}, 'a') as file:\n    file.write('x')\n")
    plugins.load([file, file])
    plugins.load([os.path.relpath(file)])
    assert (tmp_path / "times").read_text() == "x"


def test_two_files_of_one_name_are_two(tmp_path):
    files = []
    for key in ("mine_one", "mine_two"):
        (tmp_path / key).mkdir()
        files.append(write(tmp_path / key / "own.py", OWN.format(key=key)))
    plugins.load(files)
    assert {"mine_one", "mine_two"} <= set(catalogue())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = (\n", r"own\.py, line 2: SyntaxError: '\(' was never closed"),
        ("import torch\n\nimport no_such_package\n", r"own\.py, line 3: ModuleNotFoundError: No module named 'no_such"),
        ("\nraise ValueError('not\\ntoday')\n", r"own\.py, line 2: ValueError: not today; mend it, or leave the"),
        ("raise SystemExit(3)\n", r"own\.py, line 1: SystemExit: 3"),
        (OWN.format(key="clip"), r"own\.py, line 7: the objective 'clip' is one of mmclr's own \(mmclr\.losses\.pairs"),
        (
            HEAD.format(key="mlp"),
            r"own\.py, line 13: the head 'mlp' is one of mmclr's own .* Turned of .*own\.py",
        ),
        (
            OWN.format(key="mine").replace("image: Tensor", "imag: Tensor"),
            r"line 7: TypeError: Own\.forward asks for 'imag', which is not in mmclr\.vocabulary; did you mean image",
        ),
    ],
)
def test_what_fails_in_a_file_is_said_with_its_line(tmp_path, text, said):
    with pytest.raises(UserError, match=said) as error:
        plugins.load([write(tmp_path / "own.py", text)])
    assert str(error.value).startswith(f"plugins: {tmp_path}/own.py, line")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone/own.py", r"plugins: /.*/gone/own\.py: no such file; put it there, or name the file where it lies now"),
        ("no_such_module", "plugins: there is no module no_such_module; install the package .* path/to/no_such_module"),
        ("json.no_such_part", r"plugins: there is no module json\.no_such_part; look for it in "),
        ("__main__.x", "plugins: there is no module __main__.x"),
        ("a b", "plugins: 'a b' is no module and no file"),
        ("", "plugins: '' is no module and no file"),
    ],
)
def test_what_is_not_there_is_one_sentence(name, said):
    with pytest.raises(UserError, match=said):
        plugins.load([name])


def test_a_key_of_ours_is_kept_even_if_ours_comes_later(tmp_path):
    """Objectives are found by walking, so a plugin may have been first."""
    plugins.load([write(tmp_path / "own.py", OWN.format(key="mine"))])
    theirs = _REGISTRY.pop("mine")
    ours = _REGISTRY["clip"]
    registry = {"clip": theirs}
    with pytest.raises(UserError, match=r"'clip' is one of mmclr's own .*; Own of .*own\.py needs another key"):
        plugins.register("objective", registry, "clip", ours)


def test_two_plugins_may_not_have_one_key(tmp_path):
    files = [write(tmp_path / f"{name}.py", OWN.format(key="mine")) for name in ("first", "second")]
    with pytest.raises(UserError, match=r"'mine' is there already, of .*first\.py; Own of .*second\.py needs another"):
        plugins.load(files)


def test_a_config_loads_them_before_it_is_checked_and_stores_whole_paths(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs" / "beside.py", OWN.format(key="mine_beside"))
    write(tmp_path / "here.py", OWN.format(key="mine_here"))
    tree = "base: debug.yaml\nplugins: [beside.py, here.py]\nsteps: 1\ndata: {train: x.tar}\n"
    config = write(tmp_path / "configs" / "own.yaml", tree)
    monkeypatch.chdir(tmp_path)
    run = load(RunConfig, config)
    assert run.plugins == [str(tmp_path / "configs" / "beside.py"), str(tmp_path / "here.py")]
    assert {"mine_beside", "mine_here"} <= set(catalogue())
    assert run_config("plugins=[here.py]").plugins == [str(tmp_path / "here.py")]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("own.py", "plugins: input should be a valid list"),
        ("[{a: 1}]", "plugins.0: "),
        ("[gone.py]", "plugins: /.*gone.py: no such file"),
    ],
)
def test_a_config_that_names_none_rightly_is_refused(value, said):
    with pytest.raises((ConfigError, UserError), match=said):
        run_config(f"plugins={value}")


def _power(pickled):
    return type(pickle.loads(pickled)).__name__, "torch" in sys.modules


def test_a_process_that_is_started_finds_the_file_by_its_modules_name(tmp_path):
    """As worker processes of the loader do where they are not forked."""
    file = write(tmp_path / "own.py", OWN.format(key="mine_elsewhere"))
    plugins.load([file])
    own = pickle.dumps(build("mine_elsewhere", {}))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_power, (own,)) == ("Own", True)


def install(folder, name, text):
    """Write a package as pip installs it: a module, and what it says of itself."""
    write(folder / f"{name}.py", text)
    about = folder / f"{name}-0.1.dist-info"
    about.mkdir()
    write(about / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    write(about / "entry_points.txt", f"[mmclr.plugins]\nparts = {name}\n")


def test_installed_packages_are_there_by_themselves(tmp_path, monkeypatch):
    install(tmp_path, "somebodys_package", OWN.format(key="mine_installed"))
    sys.path.insert(0, str(tmp_path))
    monkeypatch.setattr(plugins, "_looked", False)
    assert plugins.origin(catalogue()["mine_installed"]) == "somebodys_package"


def test_an_installed_package_that_fails_is_named(tmp_path, monkeypatch):
    install(tmp_path, "somebodys_broken", "\n1 / 0\n")
    sys.path.insert(0, str(tmp_path))
    monkeypatch.setattr(plugins, "_looked", False)
    said = r"installed package somebodys_broken 0\.1 \(entry point parts of mmclr\.plugins\): .*, line 2: Zero"
    for _ in range(2):
        with pytest.raises(UserError, match=said):
            catalogue()
    monkeypatch.setattr(plugins, "_looked", True)


SHOUT = """
from mmclr import plugins

@plugins.command("{name}")
def shout(words):
    print(" ".join(words).upper())
    return 3
"""


def test_a_command_of_ones_own(tmp_path, capsys):
    file = write(tmp_path / "own.py", SHOUT.format(name="data shout"))
    assert main(["data", "shout", "a", f"--plugins={file}", "b"]) == 3
    assert capsys.readouterr().out == "A B\n"


def test_a_command_of_ours_is_not_replaced(tmp_path, capsys):
    file = write(tmp_path / "own.py", SHOUT.format(name="data stats"))
    assert main(["--plugins", file, "data", "stats", "x.tar"]) == 2
    assert "'data stats' is one of mmclr's own; shout of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "rest", "given"),
    [
        (["eval", "x"], ["eval", "x"], []),
        (["--plugins", "a,b", "eval"], ["eval"], ["a", "b"]),
        (["eval", "x", "--plugins=a", "--plugins", "b"], ["eval", "x"], ["a", "b"]),
    ],
)
def test_what_the_command_line_gives(words, rest, given):
    assert plugins.taken_from(words) == rest
    assert given == plugins.GIVEN


def test_plugins_without_names_is_a_sentence(capsys):
    assert main(["papers", "--plugins"]) == 2
    assert "--plugins: name modules or files" in capsys.readouterr().err


def test_papers_lists_them_and_says_where_they_are(tmp_path, capsys):
    file = write(tmp_path / "own.py", OWN.format(key="mine_listed"))
    plugins.load([write(tmp_path / "open.py", OWN.format(key="mine_open").replace("= 2.0  # of", " # of"))])
    assert main(["papers", "--json", "--plugins", file]) == 0
    found = {entry["key"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["mine_listed"]["origin"] == found["mine_listed"]["file"] == file
    assert found["mine_listed"]["fields"] == [{"name": "power", "default": 2.0, "comment": "of the distance"}]
    assert found["mine_open"]["state"] == ["what power decide"]
    assert found["clip"]["origin"] == ""
    assert "mine_listed" not in page.page(papers.entries())


RUN = ["debug.yaml", "steps=2", "trackers=none", "objectives={mine: {use: mine_run, head: {use: turned_run}}}"]


def test_a_stored_config_runs_no_code(tmp_path, shards, capsys):
    """A run whose config names a plugin is evaluated without it; what needs it says so; --plugins loads it."""
    mark = f"\nwith open({str(tmp_path / 'ran')!r}, 'a') as file:\n    file.write('x')\n"
    file = write(tmp_path / "own.py", OWN.format(key="mine_run") + HEAD.format(key="turned_run") + mark)
    run = tmp_path / "run"
    assert main(["train", *RUN, f"data.train={shards}", f"out={run}", f"plugins=[{file}]"]) == 0
    stored = next((run / "checkpoints").glob("step-*")) / "config.yaml"
    assert yaml.safe_load(stored.read_text())["plugins"] == [file]
    words = ["eval", "retrieval", str(run), "--data", shards]
    with parts.nothing_loaded():
        assert main(words) == 0
        assert main(["export", "transformers", str(run), str(tmp_path / "exported")]) == 0
        assert main(["report", str(run)]) == 0
        assert (tmp_path / "ran").read_text() == "x"  # in training alone
        capsys.readouterr()
        assert main([*words, "--head", "mine"]) == 2
        said = capsys.readouterr().err
        assert "code that is not loaded unasked: if you trust it, add --plugins " + file in said
        assert (tmp_path / "ran").read_text() == "x"
        assert main([*words, "--head", "mine", "--plugins", file]) == 0
        assert (tmp_path / "ran").read_text() == "xx"


def test_a_run_goes_on_in_another_folder_or_says_what_is_gone(tmp_path, shards, monkeypatch, capsys):
    (tmp_path / "elsewhere").mkdir()
    file = write(tmp_path / "own.py", OWN.format(key="mine_again"))
    tree = "base: debug.yaml\nplugins: [own.py]\nobjectives: {mine_again: {}}\nsteps: 2\ntrackers: none\n"
    config = write(tmp_path / "own.yaml", f"{tree}out: {tmp_path}/run\ndata: {{train: '{shards}'}}\n")
    assert main(["train", config]) == 0
    (stored,) = (tmp_path / "run" / "checkpoints").glob("step-*/config.yaml")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with parts.nothing_loaded():
        assert main(["train", str(stored), "steps=3"]) == 0
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if '"loss"' in line] == [1, 2, 3]
    os.rename(file, tmp_path / "moved.py")
    with parts.nothing_loaded():
        assert main(["train", str(stored), "steps=4"]) == 2
    assert f"plugins: {file}: no such file; put it there" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.dist
def test_several_processes_load_them(tmp_path, shards):
    file = write(tmp_path / "own.py", OWN.format(key="mine_twice"))
    words = ["train", "debug.yaml", "steps=2", "trackers=none", "objectives={mine_twice: {}}", f"data.train={shards}"]
    command = [sys.executable, "-m", "mmclr.cli", *words, f"out={tmp_path}/run", "--processes", "2", "--plugins", file]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SUITE = """
from mmclr import plugins
from mmclr.eval.suite import Suite

def run(embedder, data, args):
    raise SystemExit(f"{{args.data}} is looked at")

suite = plugins.suite(Suite(name="{name}", about="Count.", examples="", run=run, open=lambda args: None))
"""


def test_a_suite_of_ones_own(tmp_path):
    plugins.load([write(tmp_path / "own.py", SUITE.format(name="mine_counted"))])
    assert "mine_counted" in suites.names()
    with pytest.raises(SystemExit, match="x.tar is looked at"):
        suites.find("mine_counted").measure(["model", "--data", "x.tar"], None)
    assert plugins.COMMANDS["eval mine_counted"] == suites.find("mine_counted").main


def test_a_suite_of_ours_is_not_replaced(tmp_path, capsys):
    file = write(tmp_path / "own.py", SUITE.format(name="retrieval"))
    assert main(["--plugins", file, "eval", "retrieval", "x"]) == 2
    assert "'eval retrieval' is one of mmclr's own; run of" in capsys.readouterr().err
    with pytest.raises(UserError, match="the suite 'retrieval' is one of mmclr's own; run of .*own.py needs another"):
        suites.names()
