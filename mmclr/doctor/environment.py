"""Check that this environment is fit to train: versions, imports, the torchvision operators, devices, compiler."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from mmclr.doctor import builds
from mmclr.doctor.finding import Finding
from mmclr.runtime.spinning import OURS, threads_spin

HERE = Path(__file__).parent
HOOK = "_mmclr_torchvision_hook"  # the name of the hook's two files in site-packages: .py and .pth
# Silent when the .py is gone: an environment must never complain at each start about something half removed.
PTH = f'import sys; exec("try:\\n import {HOOK}\\nexcept ImportError:\\n pass")\n'
TRAP = "torchvision::nms does not exist"
EXTRAS = {
    "deepspeed": "ZeRO is not available",
    "demo": "`mmclr demo` has no images",
    "onnx": "`mmclr export onnx` is not available",
}


def check(fix: Set[str] = frozenset()) -> Iterator[Finding]:
    """Yield what there is to say about this environment; make the repairs named in `fix` first, where they are due."""
    yield python()
    yield from requirements()
    seen = probe()
    if "crash" in seen:
        yield Finding(
            "BROKEN", "importing torch and its companions", seen["crash"], "reinstall them in a new environment"
        )
        return
    if "torchvision" in fix and (trapped(seen) or stale_hook(site_packages())):
        yield Finding(
            "note",
            f"repair torchvision: writes {HOOK}.py and {HOOK}.pth into {site_packages()}",
            "every Python of this environment then reads them at its start",
            "mmclr doctor --undo torchvision takes it back",
        )
        yield install_hook(site_packages())
        seen = probe()
    yield from imports(seen)
    if seen["hardware"]:
        yield from devices(seen["hardware"])
    yield compiler()
    yield threads()
    yield from builds.check("builds" in fix)


def python() -> Finding:
    """Say which Python this is."""
    version = platform.python_version()
    if sys.prefix == sys.base_prefix:
        why = "not a virtual environment, so other programs' packages and mmclr's can break each other"
        return Finding("note", f"Python {version} in {sys.prefix}", why, f"{sys.executable} -m venv .venv")
    return Finding("ok", f"Python {version} in {sys.prefix}")


def requirements() -> Iterator[Finding]:
    """Compare what mmclr's metadata asks for with what is installed."""
    try:
        asked = [Requirement(text) for text in importlib.metadata.requires("mmclr") or ()]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("note", "mmclr runs without being installed", "versions cannot be compared", "pip install -e .")
        return
    core = [r for r in asked if not r.marker or r.marker.evaluate({"extra": ""})]
    faults = [(r, fault) for r in core if (fault := unmet(r))]
    for requirement, fault in faults:
        yield Finding(
            "BROKEN", f"{requirement.name} {fault}", f"mmclr needs {requirement}", f"pip install '{requirement}'"
        )
    if not faults:
        yield Finding("ok", ", ".join(f"{r.name} {importlib.metadata.version(r.name)}" for r in core))
    for extra, loss in EXTRAS.items():
        theirs = [r for r in asked if r not in core and r.marker and r.marker.evaluate({"extra": extra})]
        missing = [f"{r.name} {fault}" for r in theirs if (fault := unmet(r))]
        if missing:
            yield Finding("note", ", ".join(missing), loss, f"pip install 'mmclr[{extra}]', if you need it")
        elif theirs:
            yield Finding("ok", ", ".join(f"{r.name} {importlib.metadata.version(r.name)}" for r in theirs))


def unmet(requirement: Requirement) -> str:
    """Return what is wrong with the installed package, or an empty string."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return "is not installed"
    return "" if requirement.specifier.contains(version, prereleases=True) else f"{version} is installed"


def probe() -> dict[str, Any]:
    """Return what `probe.py` prints in a fresh interpreter: {"failures": {import: error}, "hardware": {...}}."""
    command = [sys.executable, "-c", (HERE / "probe.py").read_text()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"crash": f"exit status {done.returncode}, {last}"}


def trapped(seen: dict[str, Any]) -> bool:
    """Say whether a torchvision built for CUDA stands beside a torch that is not."""
    built_for = (seen["hardware"] or {}).get("built_for")
    return not built_for and TRAP in seen["failures"].get("torchvision", "")


def imports(seen: dict[str, Any]) -> Iterator[Finding]:
    """Say what does not import, and once why."""
    failures = dict(seen["failures"])
    if trapped(seen):
        same = [name for name, error in failures.items() if TRAP in error]
        yield Finding(
            "BROKEN",
            f"{', '.join(same)} do not import",
            f"torchvision {importlib.metadata.version('torchvision')} was built for CUDA and torch "
            f"{seen['hardware']['version']} was not, so its operators do not load",
            "mmclr doctor --fix torchvision",
        )
        failures = {name: error for name, error in failures.items() if name not in same}
    for name, error in failures.items():
        mend = (
            "install the torchvision that belongs to this torch" if TRAP in error else f"reinstall {name.split('.')[0]}"
        )
        yield Finding("BROKEN", f"{name} does not import", error, mend)
    if not seen["failures"]:
        declared = (site_packages() / f"{HOOK}.pth").exists()
        yield Finding(
            "ok", "torchvision, timm, open_clip, transformers and accelerate import", "with the hook" * declared
        )


def site_packages() -> Path:
    """Return the folder whose .pth files this environment's Python reads at each start."""
    return Path(sysconfig.get_path("purelib"))


def stale_hook(folder: Path) -> bool:
    """Say whether `folder` holds the hook of another version of mmclr."""
    code = folder / f"{HOOK}.py"
    return code.exists() and code.read_bytes() != (HERE / "torchvision_hook.py").read_bytes()


def install_hook(folder: Path) -> Finding:
    """Write the torchvision hook and the .pth file that starts it into `folder`; writing it again changes nothing."""
    code = folder / f"{HOOK}.py"
    try:
        shutil.copyfile(HERE / "torchvision_hook.py", code)
        py_compile.compile(str(code), doraise=True)  # where bytecode is never written, each start would compile it
        (folder / f"{HOOK}.pth").write_text(PTH)
    except OSError as error:
        return Finding(
            "BROKEN", f"the torchvision hook cannot be written: {error}", do="use an environment of your own"
        )
    return Finding("fixed", f"torchvision's missing operators are declared when it is imported ({code})")


def remove_hook(folder: Path) -> Finding:
    """Take out of `folder` what `install_hook` wrote there, and nothing else."""
    pth, code = folder / f"{HOOK}.pth", folder / f"{HOOK}.py"
    if pth.exists() and pth.read_text() != PTH:
        return Finding("note", f"{pth} stays", "mmclr did not write it as it is now", "look at it, and delete it")
    found = [path for path in (pth, code, *folder.glob(f"__pycache__/{HOOK}.*.pyc")) if path.exists()]
    if not found:
        return Finding("ok", f"the torchvision hook is not in {folder}")
    try:
        for path in found:
            path.unlink()
    except OSError as error:
        return Finding("BROKEN", f"the torchvision hook cannot be removed: {error}", do=f"delete {pth} and {code}")
    return Finding("fixed", f"the torchvision hook is out of {folder} again")


def threads() -> Finding:
    """Say whether threads keep cores busy while they wait."""
    set_ = ", ".join(f"{name}={os.environ[name]}" for name in OURS if name in os.environ) or "no policy"
    if threads_spin():
        why = "threads that wait keep cores busy, so fewer are used, and a busy neighbour slows everything down"
        return Finding("note", f"{set_} in the environment", why, "unset it: mmclr's commands let threads sleep")
    return Finding(
        "ok",
        f"threads that wait sleep ({set_}); in Python import mmclr.train before torch: else they spin, few are used",
    )


def devices(hardware: dict[str, Any]) -> Iterator[Finding]:
    """Say what this machine computes on, and in which precision."""
    version, built_for, found = hardware["version"], hardware["built_for"], hardware["devices"]
    memory = f", {hardware['memory'] / 2**30:.0f} GiB" if hardware["memory"] else ""
    cores = f"{os.cpu_count()} CPU cores{memory}"
    if found:
        names = ", ".join(f"{name} ({total / 2**30:.0f} GiB)" for name, total in found)
        yield Finding("ok", f"torch {version} on {names}; {cores}")
    elif built_for:
        why = f"torch {version} is built for {built_for} but finds no device, so it trains on {cores}"
        yield Finding("note", "no accelerator", why, "check the driver with nvidia-smi, if there should be one")
    else:
        apple = "; Apple's GPU is not used" if hardware["mps"] else ""
        yield Finding("ok", f"torch {version} on {cores}{apple}")
    if not hardware["bf16"]:
        yield Finding(
            "note", "no fast bfloat16 here", "bf16 would be many times slower than float32", "train in float32"
        )


def compiler() -> Finding:
    """Look for a C++ compiler: DeepSpeed and torch.compile build their kernels with it."""
    wanted = [os.environ.get("CXX"), "c++", "g++", "clang++", "cl"]
    found = next(filter(None, (shutil.which(name) for name in wanted if name)), None)
    if found:
        return Finding("ok", f"C++ compiler {found}")
    why = "DeepSpeed and torch.compile cannot build their kernels"
    return Finding("note", "no C++ compiler", why, "install g++ or clang, or set CXX")
