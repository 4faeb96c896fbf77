"""The streamed losses beside open_clip 3.3.0's, in one run: time, memory, accuracy, and over gloo processes.

    python benchmarks/loss.py [--quick] [--part speed,memory,papers,accuracy,distributed]
    python benchmarks/loss.py --extra clip PAIRS WIDTH         the extra memory of that alone, MiB

One thread. Implementations take turns, round by round, and a ratio is the median of the rounds' ratios. Times are
the process's CPU time (on a quiet machine: the wall's), but the wall's over processes. `_tuned` means glibc told to
reuse memory instead of returning it (TUNED), so that the peer does not pay for page faults. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from open_clip.loss import ClipLoss, SigLipLoss
from paper_objectives import papers, status
from torch import Tensor
from torch.nn import functional as F

from mmclr.losses import build

TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "137438953472", "MALLOC_TOP_PAD_": "268435456"}
PARTS = ("speed", "memory", "papers", "accuracy", "distributed")
Loss = Callable[..., Tensor]


def features(b: int, width: int = 512, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Random unit vectors, a scale and a bias, all of which want gradients."""
    g = torch.Generator().manual_seed(0)
    sides = [F.normalize(torch.randn(b, width, generator=g), dim=1).to(dtype) for _ in "xy"]
    return [x.requires_grad_() for x in (*sides, torch.tensor(14.3, dtype=dtype), torch.tensor(-10.0, dtype=dtype))]


def objective(key: str, **fields: Any) -> Loss:
    """An objective of ours as a function of (image, text, scale, bias), every image and caption another."""
    made = build(key, fields)

    def run(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        b = len(image) * (dist.get_world_size() if dist.is_initialized() else 1)
        rank = dist.get_rank() if dist.is_initialized() else 0
        ids = torch.arange(b)[rank * len(image) : (rank + 1) * len(image)]
        given = {"image": image, "text": text, "scale": scale, "bias": bias, "image_id": ids, "caption_id": ids}
        given |= {"weights": torch.ones(len(image)), "frozen_image": image.detach()}
        return made(**{name: given[name] for name in made.needs})

    return run


def dense_cwcl(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """CWCL with its matrices written out."""
    s = scale * image @ text.T
    w = (1 + image.detach() @ image.detach().T) / 2
    target = w / w.sum(1, keepdim=True)
    return -(target * s.log_softmax(1)).sum(1).mean() + F.cross_entropy(s.T, torch.arange(len(s)))


def peer_clip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """open_clip's loss; labels are made anew, as in a training step with another batch."""
    return ClipLoss()(image, text, scale)


def matmuls(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> None:
    """The four matmuls that no loss in O(B) memory can do without, on matrices that exist already."""
    x, y = image.detach(), text.detach()
    s = _matrix(len(x))
    torch.mm(x, y.T, out=s)
    torch.mm(x, y.T, out=s)
    torch.mm(s, y, out=_out(0, x))
    torch.mm(s.T, x, out=_out(1, y))


_kept: dict[Any, Tensor] = {}


def _matrix(b: int) -> Tensor:
    return (
        _kept.setdefault("matrix", torch.empty(b, b)) if len(_kept.get("matrix", "")) == b else _fresh("matrix", b, b)
    )


def _out(name: Any, like: Tensor) -> Tensor:
    return _kept[name] if name in _kept and _kept[name].shape == like.shape else _fresh(name, *like.shape)


def _fresh(name: Any, *shape: int) -> Tensor:
    _kept[name] = torch.zeros(*shape)
    return _kept[name]


def race(losses: dict[str, Loss], b: int, rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of forward and backward by implementation, in turns."""
    leaves = features(b)
    times: dict[str, list[float]] = {name: [] for name in losses}
    for number in range(rounds + 1):
        for name, loss in losses.items():
            for leaf in leaves:
                leaf.grad = None
            if dist.is_initialized():
                dist.barrier()
            start = clock()
            value = loss(*leaves)
            if value is not None:
                value.backward()
            if number or b > 8192:  # the first round warms up; where rounds are long that is nothing
                times[name].append(clock() - start)
    return times


def ratio(times: dict[str, list[float]], peer: str, ours: str) -> float:
    """The median over rounds of peer / ours."""
    return statistics.median(p / o for p, o in zip(times[peer], times[ours]))


def speed(quick: bool) -> dict[str, Any]:
    """Speed-ups of one process, at this process's allocator."""
    found: dict[str, Any] = {}
    clip = {"open_clip": peer_clip, "clip": objective("clip")}
    sigmoid = {"SigLipLoss": lambda i, t, s, b: SigLipLoss()(i, t, s, b), "siglip": objective("siglip")}
    soft = {"dense cwcl": dense_cwcl, "cwcl": objective("cwcl")}
    more = clip | {"kept": objective("clip", keep_mib=4096), "4 matmuls": matmuls}
    plans = [("clip", 4096, 5, clip), ("clip", 8192, 3, more), ("clip", 16384, 2, clip)]
    plans += [("siglip", 8192, 3, sigmoid), ("cwcl", 8192, 3, soft)]
    for key, b, rounds, losses in [(k, min(b, 2048), 3, x) for k, b, _, x in plans] if quick else plans:
        size = f"{b // 1024}k"
        times = race(losses, b, rounds, time.process_time)
        _kept.clear()
        print(
            f"  {size:>3}", *(f"{name} {statistics.median(t):.3f} s" for name, t in times.items()), sep="  ", flush=True
        )
        found[f"{key}_speedup_{size}"] = ratio(times, next(iter(losses)), key)
        if losses is more:
            found[f"clip_kept_speedup_{size}"] = ratio(times, "open_clip", "kept")
            found[f"clip_floor_fraction_{size}"] = ratio(times, "4 matmuls", "clip")
    return found


def extra_mib(name: str, b: int, width: int = 512) -> float:
    """Peak memory of one forward and backward beyond the features and their gradients, MiB."""
    loss = {"open_clip": peer_clip, "clip": objective("clip"), "siglip": objective("siglip")}[name]
    leaves = features(b, width)
    loss(*features(600, width)).backward()  # libraries' own buffers
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    loss(*leaves).backward()
    gradients = sum(leaf.nbytes for leaf in leaves)
    return (status("VmHWM") - before) / 1024 - gradients / 2**20


def memory(quick: bool) -> dict[str, Any]:
    """Extra memory, each in a process of its own."""
    small, large = (2048, 4096) if quick else (16384, 32768)
    plan = [("clip", small), ("clip", large), ("open_clip", small), ("siglip", small)]
    extra = {(name, b): float(child("--extra", name, str(b))) for name, b in plan}
    print(*(f"  {name} {b // 1024}k: {mib:.1f} MiB" for (name, b), mib in extra.items()), sep="\n")
    found = {f"{name}_extra_mib_{b // 1024}k": mib for (name, b), mib in extra.items()}
    return found | {f"clip_memory_ratio_{small // 1024}k": extra["open_clip", small] / extra["clip", small]}


def accuracy(quick: bool) -> dict[str, Any]:
    """Relative errors against float64, of the loss and of the gradients of images and scale, at four true losses."""
    found = {}
    for goal in (8.0, 1.0, 1e-4, 1e-7):
        leaves, exact = _at_loss(goal)
        errors = {}
        for name, loss in (("open_clip", peer_clip), ("clip", objective("clip"))):
            value = loss(*leaves)
            grads = torch.autograd.grad(value, (leaves[0], leaves[2]))
            errors[name] = [_error(a, e) for a, e in zip((value, *grads), exact)]
        found[f"{goal:g}"] = {name: dict(zip(("loss", "image", "scale"), e)) for name, e in errors.items()}
        print(
            f"  true loss {exact[0].item():.3g}:",
            *(f"{n} {e[0]:.1e} {e[1]:.1e} {e[2]:.1e}" for n, e in errors.items()),
            sep="  ",
        )
    pairs = [(e["clip"][of], e["open_clip"][of]) for e in found.values() for of in ("loss", "image", "scale")]
    worst = max(found["1e-07"]["clip"].values())
    return {"accuracy": found, "accuracy_at_1e-7": worst, "accuracy_worst_ratio": max(o / p for o, p in pairs)}


def _at_loss(goal: float) -> tuple[list[Tensor], list[Tensor]]:
    """A batch whose InfoNCE is about `goal`, its captions near their images; and its float64 loss and gradients."""
    image, noise, scale, _ = features(2048 if goal > 5 else 700, 512)
    # Independent captions cost log B; otherwise scale decides how far the pairs stand out.
    text = noise if goal > 5 else F.normalize(0.6 * image + 0.8 * noise, dim=1)
    low, high = (1.0, 14.3) if goal > 5 else (1.0, 200.0)
    for _ in range(40):
        middle = (low + high) / 2
        wide = [x.detach().double().requires_grad_() for x in (image, text, torch.tensor(middle))]
        value = peer_clip(*wide, wide[2])
        low, high = (middle, high) if (value > goal) != (goal > 5) else (low, middle)
    leaves = [x.detach().float().requires_grad_() for x in (*wide, torch.tensor(0.0))]
    wide = [x.detach().double().requires_grad_() for x in leaves]
    value = objective("clip")(*wide)  # in float64 it is exact; the tests compare it with the dense form
    return leaves, [value, *torch.autograd.grad(value, (wide[0], wide[2]))]


def _error(value: Tensor, exact: Tensor) -> float:
    return ((value.double() - exact).norm() / exact.norm()).item()


def distributed(quick: bool) -> dict[str, Any]:
    """Against local_loss and gather_with_grad, 2 and 4 gloo processes, B = 4096."""
    found = {}
    for world in (2, 4):
        times = json.loads(child("--ranks", str(world), "2" if quick else "7"))
        print(f"  {world} processes:", *(f"{name} {statistics.median(t):.3f} s" for name, t in times.items()), sep="  ")
        found[f"distributed_speedup_{world}"] = ratio(times, "open_clip", "clip")
    return found


def ranks(world: int, rounds: int) -> None:
    """Start `world` processes and print rank 0's times; a barrier before each makes them the slowest's."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (world, rounds, f"{folder}/store"), nprocs=world)


def _rank(rank: int, world: int, rounds: int, meeting: str) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    peer = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=world)
    losses = {"open_clip": lambda i, t, s, b: peer(i, t, s), "clip": objective("clip")}
    times = race(losses, 4096 // world, rounds, time.perf_counter)
    if rank == 0:
        print(json.dumps(times))
    dist.destroy_process_group()


def child(*args: str, **environment: str) -> str:
    """Run this file in a process of its own and return its last line of output."""
    command = [sys.executable, __file__, *args]
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
    *shown, last = done.stdout.strip().splitlines()
    print(*shown, sep="\n", end="\n" if shown else "")
    return last


def main() -> None:
    """Run the parts and print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches: whether it runs, not what is true")
    parser.add_argument("--part", default=",".join(PARTS), help="comma-separated, of " + ", ".join(PARTS))
    parser.add_argument("--speed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--extra", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--ranks", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if args.speed:
        return print(json.dumps(speed(args.quick)))
    if args.extra:
        return print(extra_mib(args.extra[0], *map(int, args.extra[1:])))
    if args.ranks:
        return ranks(*args.ranks)
    found: dict[str, Any] = {}
    for part in args.part.split(","):
        print(part, flush=True)
        if part == "speed":
            quick = ["--quick"] if args.quick else []
            found |= json.loads(child("--speed", *quick))
            print("speed, tuned allocator", flush=True)
            tuned = json.loads(child("--speed", *quick, **TUNED))
            found |= {f"{name}_tuned": value for name, value in tuned.items()}
        else:
            found |= {"memory": memory, "papers": papers, "accuracy": accuracy, "distributed": distributed}[part](
                args.quick
            )
    for name, value in found.items():
        if isinstance(value, float):
            print(f"  {name:32} {value:10.3g}")
    print(json.dumps({name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in found.items()}))
    return None


if __name__ == "__main__":
    main()
