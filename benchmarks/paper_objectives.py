"""What the streamed objectives of papers take at a batch of 8,192: the part "papers" of loss.py.

    python benchmarks/paper_objectives.py KEY [PAIRS] [WIDTH]        one of them, in this process: its last line is JSON

One forward and backward on random features, in a process of its own: memory beyond features and gradients, and CPU
seconds. What is streamed grows with B; one [B, B] in float32 takes 256 MiB, and grows with its square.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmclr.laws.case import wants_gradient
from mmclr.losses import Facts, build
from mmclr.losses.clusters.clustering import Clustering
from mmclr.random_features import Sizes
from mmclr.vocabulary import example

CLASSES = 100
KEYS = {  # with the fields that are not at their default
    "clip": {},
    "pamc": {},
    "pamc_label": {},
    "bacon": {},
    "meow": {},
    "meow_given": {},
    "meow_adaptive": {},
    "beclr": {},
    "conr": {"quantile": 0.01},
    "conr_target": {"quantile": 0.05, "rarity": "inverse"},
    "supremix": {},
    "hydra": {},
    "sepclr": {},
    "sepclr_plain": {},
    "susana": {},
    "susana_label": {},
    "icnn": {},
    "feature_transformation": {},
    "hallucinator": {},
    "hallucinator_texts": {},
    "mclrec": {},
    "coconut": {},
    "collossl": {},
    "comet": {},
    "group_clip": {"mode": "attract"},
}


def prepared(key: str, b: int, width: int) -> tuple[Any, dict[str, Tensor]]:
    """Return the objective and random features of `b` samples, float32."""
    torch.manual_seed(0)
    made = build(key, KEYS.get(key, {}))
    made.setup(Facts.example(samples=4 * b, width=width, batch=b, classes=CLASSES))
    sizes, generator = Sizes(b=b, D=width, R=width, dtype=torch.float32), torch.Generator().manual_seed(0)
    found = {name: example(name, sizes, generator) for name in made.needs}
    for name in {"label", "domain", "group", "origin"} & found.keys():
        found[name] = found[name] % CLASSES
    found = {name: x.requires_grad_() if wants_gradient(name) else x for name, x in found.items()}
    clusterings = [module for module in made.modules() if isinstance(module, Clustering)]
    while not all(clustering.ready for clustering in clusterings):  # before, it is InfoNCE
        found["index"] = (found["index"] + b // 2) % (4 * b)
        made(**found)
        made.after_step()
    return made, found


def measure(key: str, b: int, width: int = 512) -> dict[str, float]:
    """Return MiB beyond the features and all gradients, and seconds, of one forward and backward of `b` pairs."""
    made, small = prepared(key, 600, width)
    made(**small).backward()  # libraries' own buffers
    made, features = prepared(key, b, width)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = status("VmRSS"), time.process_time()
    made(**features).backward()
    seconds = time.process_time() - start
    leaves = [*features.values(), *made.parameters()]
    gradients = sum(x.nbytes for x in leaves if x.requires_grad)
    return {"mib": (status("VmHWM") - before) / 1024 - gradients / 2**20, "seconds": seconds}


def papers(quick: bool) -> dict[str, Any]:
    """Measure all of them at B = 8192, each in a process of its own."""
    b, found = 2048 if quick else 8192, {}
    for key in KEYS:
        done = subprocess.run([sys.executable, __file__, key, str(b)], stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        found |= {f"{key}_extra_mib_{b // 1024}k": row["mib"], f"{key}_seconds_{b // 1024}k": row["seconds"]}
        print(f"  {key} {b // 1024}k: {row['mib']:.1f} MiB, {row['seconds']:.1f} s", flush=True)
    return found


def status(field: str) -> int:
    """Return what Linux says of this process's memory, KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise KeyError(field)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:] or ["8192"]))))
