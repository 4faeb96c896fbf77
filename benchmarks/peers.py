"""Peers that the project does not depend on, installed by pip into build/peers the first time a benchmark asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTO = ROOT.parent / "shared" / "data" / "picto"  # real pairs beside the project, where they are there

# numpy 2.4 turned float(array of one element) into an error, which clip-benchmark's accuracy runs into.
CLIP_BENCHMARK = ("clip-benchmark==1.6.2", "numpy==2.3.*", "requests", "urllib3", "idna", "charset_normalizer",
                  "certifi", "pycocoevalcap", "pycocotools")  # fmt: skip


def install(name: str, packages: tuple[str, ...]) -> Path:
    """Return the folder with these packages and nothing of what they depend on, for PYTHONPATH."""
    folder = ROOT / "build" / "peers" / name
    if not (folder / ".ready").is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--upgrade", "--target", str(folder), *packages], check=True)
        (folder / ".ready").touch()
    return folder


def python(code: str, *arguments: str, path: Path) -> None:
    """Run Python code in a process of its own, offline, in which the packages of `path` come first."""
    environment = {**os.environ, "PYTHONPATH": str(path), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stdout[-4000:]}")
