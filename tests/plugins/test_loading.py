"""The user's own parts: files and modules are loaded once, say what fails in them, and take nobody's key."""

import multiprocessing
import os
import pickle
import sys

import pytest

from mmclr import heads, plugins
from mmclr.config import ConfigError, load
from mmclr.errors import UserError
from mmclr.losses import build, catalogue
from mmclr.losses.objective import _REGISTRY
from mmclr.train.run import RunConfig
from tests.plugins.own import HEAD, OWN, install, write


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
