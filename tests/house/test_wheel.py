"""What users install is whole: the wheel, in an empty folder, without this checkout anywhere on the path."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"mmclr": "mmclr", "mmclr/eval": "eval", "mmclr/data_tools": "data_tools"}  # in the wheel: in the source


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    done = subprocess.run([*pip, "--target", str(folder), str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def run(installed, code, cwd, *flags):
    """Run code that sees the installed wheel and its dependencies; the flag -S keeps out an editable install."""
    path = [str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    done = subprocess.run(
        [sys.executable, *flags, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shipped_sources():
    """Return every file of the packages and configs, by its name in the wheel."""
    folders = {name: ROOT / source for name, source in PACKAGES.items()} | {"mmclr/configs": ROOT / "configs"}
    found = {f"{name}/{path.relative_to(f)}": path for name, f in folders.items() for path in f.rglob("*")}
    hidden = ("__pycache__", ".tmp", ".pyc")
    return {k: p for k, p in found.items() if p.is_file() and not any(h in str(p.relative_to(ROOT)) for h in hidden)}


def test_every_file_is_in_the_wheel_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith("/")}
        sources = shipped_sources()
        assert inside == set(sources)
        for name, path in sources.items():
            assert archive.read(name) == path.read_bytes(), name


def test_help_from_an_empty_folder_needs_no_torch(installed, tmp_path):
    code = """
from mmclr.cli import main
assert main(["--help"]) == 0
import json
print(json.dumps({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}))
"""
    *help_text, modules = run(installed, code, tmp_path, "-S").splitlines()
    modules = json.loads(modules)
    assert help_text[0].startswith("usage: mmclr")
    assert modules["mmclr.cli"].startswith(str(installed))
    assert not {"torch", "numpy", "transformers", "accelerate", "torchvision"} & set(modules)


def test_packages_and_configs_are_found_where_they_were_installed(installed, tmp_path):
    code = """
import importlib.util, json
from pathlib import Path
import mmclr
from mmclr.cli import commands
from mmclr.config import find
names = ["mmclr.eval", "mmclr.data_tools", *commands().values()]
configs = [p.name for p in (Path(mmclr.__file__).parent / "configs").rglob("*.yaml")]
origins = {name: (spec := importlib.util.find_spec(name)) and spec.origin for name in names}
print(json.dumps([origins, {name: str(find(name)) for name in configs}, list(mmclr.__path__)]))
"""
    origins, configs, path = json.loads(run(installed, code, tmp_path, "-S"))
    assert path == [str(installed / "mmclr")]
    for name, origin in origins.items():
        assert (origin or "").startswith(str(installed / "mmclr")), name
    assert set(configs) == {path.name for path in (ROOT / "configs").rglob("*.yaml")}
    assert all(path.startswith(str(installed)) for path in configs.values())


def test_a_users_own_files_hide_none_of_ours(installed, tmp_path):
    """Every command answers in a folder that has modules of the names that we once had at the top."""
    for name in ("eval", "data_tools", "config", "data"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user was imported')")
    code = f"""
sys.path.insert(0, {str(tmp_path)!r})
import contextlib, io
from mmclr.cli import commands, main
for name in commands():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            status = main([*name.split(), "--help"])
        except SystemExit as stop:
            status = stop.code
    assert status == 0 and "usage" in said.getvalue(), (name, status, said.getvalue())
"""
    run(installed, code, tmp_path)


def test_console_script_and_module_answer(installed, tmp_path):
    (script,) = (installed / "bin").glob("mmclr*")
    env = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"}
    for command in ([str(script)], [sys.executable, "-m", "mmclr.cli"]):
        done = subprocess.run([*command, "--help"], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "mmclr train" in done.stdout
        done = subprocess.run([*command, "trian"], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert "did you mean train?" in done.stderr
    assert list(tmp_path.iterdir()) == []
