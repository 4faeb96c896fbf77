"""Import what training imports, as a fresh interpreter would, and print what happened as one line of JSON.

The doctor runs this in a process of its own: an import that fails half-way, or crashes, leaves nothing behind,
and an environment that was just mended is seen as the next command will see it.
"""

import importlib
import json
import os
import sys
import warnings
from typing import Any

IMPORTS = ["torch", "torchvision", "timm", "open_clip", "transformers.CLIPModel", "transformers.CLIPProcessor"]
IMPORTS += ["accelerate", "webdataset"]


def attempt(name: str) -> str | None:
    """Import a module, or a lazy attribute of one; return what went wrong, or None."""
    module, _, attribute = name.partition(".")
    try:
        getattr(importlib.import_module(module), attribute or "__name__")
    except Exception as error:  # whatever it is, the doctor reports it
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__) is not None:
            causes.append(cause)
        return f"{type(causes[-1]).__name__}: {causes[-1]}"
    return None


def hardware() -> dict[str, Any]:
    """Return what this torch can compute on."""
    import torch

    kinds = {"cuda": torch.version.cuda, "rocm": getattr(torch.version, "hip", None)}
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [torch.cuda.get_device_properties(i) for i in range(count)]
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "version": torch.__version__,
        "built_for": next((f"{kind} {version}" for kind, version in kinds.items() if version), None),
        "devices": [[device.name, device.total_memory] for device in devices],
        "bf16": torch.cuda.is_bf16_supported()
        if count
        else any(capabilities.get(f"{i}_bf16") for i in ("avx512", "amx")),
        "memory": memory(),
        "mps": torch.backends.mps.is_available(),
    }


def memory() -> int | None:
    """Return the bytes of this machine's memory, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    failures = {name: error for name in IMPORTS if (error := attempt(name))}
    print(json.dumps({"failures": failures, "hardware": None if "torch" in failures else hardware()}), file=sys.stdout)
