"""Train a model from a config; --processes N takes several GPUs of this machine."""

from __future__ import annotations

import argparse

from mmclr import plugins
from mmclr.config import load
from mmclr.errors import UserError
from mmclr.features.provider import build_providers
from mmclr.losses.weighted_sum import build_terms
from mmclr.train.run import RunConfig


def main(argv: list[str]) -> int:
    """`mmclr train CONFIG [key=value ...]`."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--processes N] [--dry-run] CONFIG [key=value ...]",
        description="Train an image-text model on tar shards. CONFIG is a YAML file or the name of one that ships "
        "with mmclr (base.yaml says what every key means); key=value overrides it, with dots for depth.",
        epilog="example: mmclr train base.yaml 'data.train=shards/{00000..00099}.tar' model.preset=ViT-B/32 "
        "data.batch=1024 epochs=30 optim.lr=5e-4. On several GPUs: --processes 8; on many machines: accelerate launch "
        "-m mmclr.train CONFIG ...; a killed or stopped run goes on when the same command is given again. Its status "
        "is 0 after the last step, 128 + a signal's number (Ctrl-C 130, SIGTERM 143) where that stopped it, saved.",
    )
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="start so many on this machine, which share each batch: one for each GPU, or several on a CPU (default 1)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything and take a step on random data; print parameters, FLOPs, memory and time; keep nothing",
    )
    args = parser.parse_intermixed_args(argv)
    run = load(RunConfig, args.config, args.overrides)
    # a wrong objective fails here, before data or processes are touched
    build_terms(run.objectives, run.micro_batch, bool(run.teacher))
    build_providers(run.providers)
    run = run.resolved()
    from mmclr.train.processes import launch

    if args.processes > 1:
        if run.data.batch % args.processes:
            raise UserError(f"data.batch={run.data.batch} cannot be divided among {args.processes} processes")
        words = [args.config, *args.overrides, *plugins.handed_on(run.plugins)]
        return launch.start(args.processes, [*words, *["--dry-run"] * args.dry_run])
    launch.check_alone()
    if args.dry_run:
        from mmclr.train.estimate.dry_run import dry_run

        dry_run(run)
    else:
        from mmclr.train import trainer
        from mmclr.train.processes import signals

        return signals.status(trainer.train_until_stopped(run)[1])
    return 0
