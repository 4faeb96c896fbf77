"""The doctor sees what is broken, says it in one line, and mends what can be mended."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import types
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from mmclr.doctor import builds, environment
from mmclr.doctor.command import main
from mmclr.doctor.finding import Finding

PURELIB = sysconfig.get_path("purelib")
# Without site, no .pth file is read: this is the environment before the doctor mended anything.
BARE = f"import sys; sys.path[:0] = [{PURELIB!r}]\n"


def python(code, *, bare=True):
    flags = ["-S"] if bare else []
    return subprocess.run(
        [sys.executable, *flags, "-W", "ignore", "-c", (BARE if bare else "") + code], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def trap():
    done = python("import torchvision")
    if done.returncode == 0:
        pytest.skip("this environment's torchvision loads its own operators")
    assert environment.TRAP in done.stderr
    return done


@pytest.fixture
def hook(monkeypatch):
    """The hook's code, with nothing declared yet and its finder taken out again: this process has one of its own."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    spec = importlib.util.spec_from_file_location("hook", Path(environment.__file__).parent / "torchvision_hook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hook_opens_the_trap(trap, tmp_path):
    """The .pth file, read as Python reads it at its start, makes what died import and work."""
    assert environment.install_hook(tmp_path).level == "fixed"
    code = f"""
import site; site.addsitedir({str(tmp_path)!r})
import importlib.util
assert importlib.util.find_spec("torchvision").origin.startswith({PURELIB!r})
assert "torch" not in sys.modules, "looking for torchvision must cost nothing"
import torchvision, timm, open_clip, accelerate, torch
from transformers import CLIPModel, CLIPProcessor
from torchvision import transforms
from PIL import Image
assert transforms.ToTensor()(Image.new("RGB", (4, 4))).shape == (3, 4, 4)
try:
    torchvision.ops.nms(torch.rand(2, 4), torch.rand(2), 0.5)
except RuntimeError as error:
    print(error)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "Couldn't load custom C++ ops" in done.stdout


def test_hook_survives_its_half_removal(tmp_path):
    environment.install_hook(tmp_path)
    (tmp_path / f"{environment.HOOK}.py").unlink()
    for cache in (tmp_path / "__pycache__").iterdir():
        cache.unlink()
    done = python(f"import site; site.addsitedir({str(tmp_path)!r}); print('well')")
    assert (done.stdout, done.stderr) == ("well\n", "")


def test_hook_imports_nothing_at_start(tmp_path):
    environment.install_hook(tmp_path)
    code = f"""
import site
before = set(sys.modules)
site.addsitedir({str(tmp_path)!r})
print(sorted(set(sys.modules) - before))
"""
    assert python(code).stdout.strip() == f"['{environment.HOOK}']"


def test_hook_is_renewed_when_mmclr_brings_another(tmp_path):
    assert not environment.stale_hook(tmp_path)
    environment.install_hook(tmp_path)
    assert not environment.stale_hook(tmp_path)
    (tmp_path / f"{environment.HOOK}.py").write_text("# an older one\n")
    assert environment.stale_hook(tmp_path)


def test_hook_that_cannot_be_written(tmp_path):
    finding = environment.install_hook(tmp_path / "nowhere")
    assert finding.level == "BROKEN"
    assert "cannot be written" in finding.what


@pytest.mark.parametrize("versions", [{"cuda": "12.8"}, {"cuda": None, "hip": "6.2"}])
def test_hook_does_nothing_for_accelerated_torch(hook, versions, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(version=types.SimpleNamespace(**versions)))
    hook.declare("/nowhere/torchvision/__init__.py")
    assert not hook.declared


def test_hook_does_nothing_where_the_operators_load(hook, tmp_path, monkeypatch):
    assert sys.meta_path[0] is hook.Finder
    loaded = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    monkeypatch.setattr(torch.version, "cuda", None)
    from importlib.machinery import EXTENSION_SUFFIXES

    library = tmp_path / ("_C" + EXTENSION_SUFFIXES[-1])
    library.touch()
    hook.declare(str(tmp_path / "__init__.py"))
    assert loaded == [str(library)]
    assert not hook.declared


def test_trap_is_one_broken_line_with_its_cure(monkeypatch):
    error = f"RuntimeError: operator {environment.TRAP}"
    hardware = {
        "version": "2.13.0+cpu",
        "built_for": None,
        "devices": [],
        "bf16": True,
        "memory": 8 * 2**30,
        "mps": False,
    }
    seen = {
        "failures": {"torchvision": error, "timm": error, "webdataset": "ImportError: no yaml"},
        "hardware": hardware,
    }
    first, second = environment.imports(seen)
    assert str(first).startswith("BROKEN  torchvision, timm do not import: torchvision ")
    assert str(first).endswith("To do: mmclr doctor --fix torchvision")
    assert str(second) == "BROKEN  webdataset does not import: ImportError: no yaml. To do: reinstall webdataset"


def test_the_same_error_beside_a_cuda_torch_is_not_the_trap():
    """There the versions do not fit, and declaring operators would only hide it."""
    hardware = {
        "version": "2.13.0",
        "built_for": "cuda 12.8",
        "devices": [],
        "bf16": True,
        "memory": 8 * 2**30,
        "mps": False,
    }
    seen = {"failures": {"torchvision": f"RuntimeError: operator {environment.TRAP}"}, "hardware": hardware}
    assert not environment.trapped(seen)
    assert "install the torchvision that belongs to this torch" in str(next(environment.imports(seen)))


def test_requirements_name_what_is_missing_and_what_is_old(monkeypatch):
    asked = ["torch>=99", "no-such-package>=1", "numpy>=1.26", 'nothing-here>=2 ; extra == "onnx"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: asked)
    lines = [str(finding) for finding in environment.requirements()]
    installed = importlib.metadata.version("torch")
    assert lines == [
        f"BROKEN  torch {installed} is installed: mmclr needs torch>=99. To do: pip install 'torch>=99'",
        "BROKEN  no-such-package is not installed: mmclr needs no-such-package>=1. "
        "To do: pip install 'no-such-package>=1'",
        "note    nothing-here is not installed: `mmclr export onnx` is not available. "
        "To do: pip install 'mmclr[onnx]', if you need it",
    ]


def test_cpu_builds_meet_their_range():
    assert environment.unmet(Requirement("torch>=2.6")) == ""


def test_probe_reports_a_crash(monkeypatch):
    real = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **kw: real([sys.executable, "-c", "import os; os.abort()"], **kw)
    )
    assert environment.probe()["crash"].startswith("exit status -6")


def test_devices_says_what_there_is():
    base = {"version": "2.13.0", "built_for": None, "devices": [], "bf16": True, "memory": 8 * 2**30, "mps": False}
    (cpu,) = environment.devices(base)
    assert cpu.level == "ok"
    (lost,) = environment.devices({**base, "built_for": "cuda 12.8"})
    assert lost.level == "note"
    assert "nvidia-smi" in lost.do
    gpu, slow = environment.devices({**base, "devices": [["H100", 80 * 2**30]], "bf16": False})
    assert "H100 (80 GiB)" in gpu.what
    assert "float32" in slow.do


def test_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert environment.compiler().level == "note"
    mine = tmp_path / "g++"
    mine.touch(mode=0o755)
    assert str(mine) in environment.compiler().what


def test_a_finding_is_one_line():
    assert str(Finding("note", "a\nb", "why", "do")) == "note    a b: why. To do: do"


def test_command_on_this_environment():
    """The real thing, in this environment, which `make` has mended: every line is well-formed and nothing is broken."""
    done = subprocess.run(
        [sys.executable, "-m", "mmclr.cli", "doctor"], capture_output=True, text=True, cwd=Path(PURELIB)
    )
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "note", "BROKEN"}
    assert (done.returncode == 1) == any(line.startswith("BROKEN") for line in lines)
    assert any(f"torch {torch.__version__} on " in line and "CPU cores" in line for line in lines)
    assert done.returncode == 0, done.stdout


def test_a_killed_build_is_found_and_its_lock_removed(tmp_path):
    dead, alive = tmp_path / "py311_cpu" / "dead" / "lock", tmp_path / "py311_cpu" / "alive" / "lock"
    for lock in (dead, alive):
        lock.parent.mkdir(parents=True)
        lock.touch()
    os.utime(dead, (0, 0))
    (found,) = builds.check(fix=False, folder=tmp_path)
    assert found.level == "BROKEN"
    assert "dead" in found.what
    assert dead.exists()
    named, done = builds.check(fix=True, folder=tmp_path)
    assert named.what == f"repair builds: removes {dead}"
    assert done.level == "fixed"
    assert not dead.exists()
    assert alive.exists()


def test_a_repair_is_named_chosen_and_taken_back(tmp_path, monkeypatch, capsys):
    """The hook comes only when it was asked for, after it was said; --undo leaves the folder as it was."""
    (tmp_path / "other.pth").write_text("# of another package\n")
    seen = {"failures": {"torchvision": environment.TRAP}, "hardware": {"built_for": None, "version": "2"}}
    monkeypatch.setattr(environment, "probe", lambda: seen)
    monkeypatch.setattr(environment, "site_packages", lambda: tmp_path)
    monkeypatch.setattr(environment, "devices", lambda hardware: [])
    hook = tmp_path / f"{environment.HOOK}.pth"
    for words in ([], ["--fix", "builds"]):
        main(words)
        assert not hook.exists()
    capsys.readouterr()
    main(["--fix", "torchvision"])
    said = [line for line in capsys.readouterr().out.splitlines() if "hook" in line or "repair" in line]
    assert said[0].startswith("note    repair torchvision: writes ")
    assert "--undo torchvision" in said[0]
    assert hook.exists()
    assert main(["--undo", "torchvision"]) == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["other.pth"]
    assert list((tmp_path / "__pycache__").iterdir()) == []
    hook.write_text("# changed by somebody\n")
    main(["--undo"])
    assert hook.exists()
    with pytest.raises(SystemExit):
        main(["--fix", "torchvison"])
    assert "did you mean torchvision" in capsys.readouterr().err


def test_threads_that_spin_are_told(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert environment.threads().level == "note"
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert environment.threads().level == "ok"


def test_findings_for_programs(monkeypatch, capsys):
    found = [Finding("ok", "all is well"), Finding("BROKEN", "a disk", "it is full", "make room")]
    monkeypatch.setattr("mmclr.doctor.command.examine", lambda *_: iter(found))
    assert main(["--json"]) == 1
    assert [Finding(**json.loads(line)) for line in capsys.readouterr().out.splitlines()] == found
