"""The training step beside open_clip 3.3.0's, in one run, on the same weights: time, exactness, memory, end to end.

    python benchmarks/step.py [--part speed,text,gradient,cached,bf16,end_to_end] [--rounds N] [--profile [B]]

Images of 64 px in patches of 8, width 192, 6 layers; texts of up to 77 tokens, width 192, 6 layers; captions of about
16 tokens (Gamma-drawn). The peer pads texts to 77, as its trainer does. Ours is what the trainer runs: the Step from
uint8 pixels, the gradient's norm and fused AdamW. One thread each, each in its own process with its trainer's memory
allocator (ours: mmclr/runtime/allocator.py), in turns, round by round; a ratio is the median of the rounds'
ratios, of CPU time (on a quiet machine: the wall's). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import sides
import torch
from sides import MODEL, Ours, Peer, make_batch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from trainers import end_to_end

from mmclr.data.stream.batch import Batch
from mmclr.models.formats.open_clip_weights import from_open_clip
from mmclr.runtime.allocator import keep_freed_memory


def race(names: tuple[str, ...], sizes: dict[int, int]) -> dict[int, dict[str, list[float]]]:
    """Let sides run in turns, and tell."""
    times = sides.race(names, sizes)
    for b, found in times.items():
        print(f"  b={b}: " + "  ".join(f"{name} {statistics.median(t):.3f} s" for name, t in found.items()), flush=True)
    return times


def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    """The median over rounds of one runner's time over another's."""
    return statistics.median(a / b for a, b in zip(times[above], times[below]))


def gemm_rate(dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a matmul of 512 x 1024 x 512, the best of some tries."""
    a, b = torch.randn(512, 1024).to(dtype), torch.randn(1024, 512).to(dtype)
    best = float("inf")
    for _ in range(20 if dtype == torch.float32 else 3):
        start = time.process_time()
        for _ in range(10 if dtype == torch.float32 else 1):
            a @ b
        best = min(best, (time.process_time() - start) / (10 if dtype == torch.float32 else 1))
    return 2 * 512 * 1024 * 512 / best


def flops(ours: Ours, batch: Batch) -> int:
    """FLOP of the matmuls of one forward and backward."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        ours.backward(batch)
    ours.strategy.skip()
    return int(counter.get_total_flops())


def speed(rounds: int) -> dict[str, Any]:
    """Whole steps, and how near they are to their matmuls alone."""
    times = race(("open_clip", "mmclr"), {64: 2 * rounds, 256: rounds})
    found: dict[str, Any] = {f"step_speedup_b{b}": ratio(t, "open_clip", "mmclr") for b, t in times.items()}
    rate, ours = gemm_rate(), Ours(Peer())
    floor = statistics.median(flops(ours, make_batch(64, n)) for n in range(1, 4)) / rate
    print(f"  b=64: matmuls alone {floor:.3f} s at {rate / 1e9:.0f} GFLOP/s")
    return found | {"step_floor_fraction_b64": floor / statistics.median(times[64]["mmclr"])}


def text(rounds: int) -> dict[str, Any]:
    """The text towers alone, forward and backward, b = 64."""
    times = race(("open_clip text", "mmclr text"), {64: 2 * rounds})
    return {"text_tower_speedup": ratio(times[64], "open_clip text", "mmclr text")}


def gradient(rounds: int) -> dict[str, Any]:
    """The largest relative difference of a parameter's gradient to open_clip's, float32."""
    peer = Peer()
    ours, batch = Ours(peer), make_batch(64, 0)
    a, b = peer.backward(peer.prepare(batch)), ours.backward(batch)
    theirs = from_open_clip({n: p.grad for n, p in peer.model.named_parameters()}, MODEL.config, "")
    mine = {n: p.grad for n, p in ours.model.named_parameters()}
    whole = nn.utils.get_total_norm(list(mine.values()))
    # the keys' bias changes no softmax: its gradient is rounding on both sides
    errors = {n: float((g - theirs[n]).norm() / theirs[n].norm()) for n, g in mine.items() if "k_proj.bias" not in n}
    total = nn.utils.get_total_norm([g - theirs[n] for n, g in mine.items()]) / whole
    worst = max(errors, key=lambda n: errors[n])
    print(f"  loss {float(a):.7f} and {float(b):.7f}; of all {float(total):.1e}; worst {worst} {errors[worst]:.1e}")
    return {"grad_error": float(total), "grad_error_worst_parameter": errors[worst]}


def cached(rounds: int) -> dict[str, Any]:
    """8 micro-batches of 32 pairs against 256 at once."""
    times = race(("mmclr", "mmclr in 8 parts"), {256: rounds})[256]
    peaks = [_peak_in_a_process(micro) for micro in (0, 32)]
    print(f"  peak memory of a step beyond weights and their gradients: {peaks[0] >> 20} and {peaks[1] >> 20} MiB")
    return {"cached_overhead": ratio(times, "mmclr in 8 parts", "mmclr"), "cached_memory_ratio": peaks[1] / peaks[0]}


def _peak_in_a_process(micro: int) -> int:
    """Bytes by which a step's peak is above what stays, in a process that has done nothing else (Linux)."""
    command = [sys.executable, "-W", "ignore", "-c", f"import step; step.tell_peak({micro})"]
    done = subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def tell_peak(micro: int) -> None:
    """Run a step for 256 pairs, and print by how much its peak is above what stays."""
    torch.set_num_threads(1)
    keep_freed_memory()
    ours, batch = Ours(Peer()), make_batch(256, 1)
    ours.backward(make_batch(8, 0))  # now gradients are there
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    ours.backward(batch, micro)
    print(_memory("VmHWM") - before)


def _memory(name: str) -> int:
    """Bytes of this process by Linux's name for them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def bf16(rounds: int) -> dict[str, Any]:
    """Under bf16 autocast, against open_clip in float32; nothing where the CPU multiplies bf16 slowly."""
    single, half = gemm_rate(), gemm_rate(torch.bfloat16)
    found: dict[str, Any] = {"bf16_gemm_over_float32": half / single}
    if half < single:
        print(f"  this CPU has no fast bf16: {half / 1e9:.1f} GFLOP/s against {single / 1e9:.1f}; not measured")
        return found | {"step_speedup_bf16_b64": None, "step_speedup_bf16_b256": None}
    times = race(("open_clip", "mmclr bf16"), {64: 2 * rounds, 256: rounds})
    return found | {f"step_speedup_bf16_b{b}": ratio(t, "open_clip", "mmclr bf16") for b, t in times.items()}


def profile(b: int) -> None:
    """Print where our step's time goes."""
    keep_freed_memory()
    ours = Ours(Peer())
    for number in range(3):
        ours.step(make_batch(b, number))
    with torch.profiler.profile() as found:
        ours.step(make_batch(b, 3))
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60))


PARTS = {f.__name__: f for f in (speed, text, gradient, cached, bf16, end_to_end)}


def main() -> None:
    """Print the numbers; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    told = "print where our step's time goes with a batch of B (default 64), and nothing else"
    parser.add_argument("--profile", nargs="?", type=int, const=64, metavar="B", help=told)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.profile:
        profile(args.profile)
        return
    found: dict[str, Any] = {}
    for part in args.part.split(","):
        print(part, flush=True)
        found.update(PARTS[part](args.rounds))
    print(json.dumps({name: value if value is None else round(value, 9) for name, value in found.items()}))


if __name__ == "__main__":
    main()
