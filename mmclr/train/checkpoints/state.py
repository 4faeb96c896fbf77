"""The parts of a run that a checkpoint holds: taken out of them, and given back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from mmclr.config import stored
from mmclr.data.samples.text import Tokenizer
from mmclr.errors import UserError
from mmclr.heads.ema_copy import pairs
from mmclr.models.formats.find import read_state
from mmclr.models.two_tower import load_weights, read_weights
from mmclr.train.checkpoints.capture import fill
from mmclr.train.checkpoints.folder import Snapshot, read_position
from mmclr.train.checkpoints.renamed import by_todays_name
from mmclr.train.parts import Parts
from mmclr.train.step import EMA, MODEL

OBJECTIVES, PROVIDERS = "objectives.", "providers."  # their names in the step begin with it


def take(t: Parts) -> Snapshot | None:
    """Return all that the next step depends on, on the main process; every rank has to take part."""
    main, scale = t.accelerator.is_main_process, t.strategy.scale
    own = tuple(f"{PROVIDERS}{name}." for name in t.step.chosen)
    whole = _whole(t, MODEL, OBJECTIVES, EMA, *own)
    models = {"model": whole}
    if t.average is not None:
        with t.strategy.swapped_weights(t.average.parts):
            models["average"] = _whole(t, MODEL)
    optimizer = {name: copied(value) for name, value in t.strategy.optimizer_state() if main}
    position = {
        "step": t.taken,
        "threads": t.threads,
        "loader": t.loader.state_dict(),  # sums over ranks: all must ask
        "guard": t.guard.state_dict(),
        "scale": None if scale is None else [scale.value, scale.held],
        "best": t.saver.best,
    }
    if not main:
        return None
    return Snapshot(
        config=stored(t.run),
        models={name: fill(t.shell, below(MODEL, weights)) for name, weights in models.items()},
        tokenizer=t.tokenizer,
        objectives=below(OBJECTIVES, whole),
        ema=below(EMA, whole),
        optimizer=optimizer,
        position=copy.deepcopy(position),  # it is written while the run goes on
        providers=below(PROVIDERS, {name: value for name, value in whole.items() if name.startswith(own)}),
    )


def give_weights(t: Parts, source: Path) -> None:
    """Fill the model and the objectives: before they are shared out among processes."""
    load_weights(t.model, read_state(source / "model"), str(source / "model"))
    kept = read_weights(source / "state" / "objectives.safetensors")
    for own, followed in pairs(t.step.objectives).items():  # heads had no teachers once
        if own not in kept and followed in kept:
            kept[own] = kept[followed]
    load_weights(t.step.objectives, kept, str(source / "state"))
    if "ema" in t.step.providers:
        path = source / "state" / "ema.safetensors"
        if not path.is_file():
            raise UserError(f"{source}: it has no teacher; it was saved by a run without objectives that ask for one")
        load_weights(t.step.providers["ema"], read_weights(path), str(path))
    chosen = nn.ModuleDict({name: t.step.providers[name] for name in t.step.chosen})
    if chosen.state_dict():
        path = source / "state" / "providers.safetensors"
        if not path.is_file():
            raise UserError(
                f"{source}: it has no state of providers; it was saved by a run with no `providers` of such"
            )
        load_weights(chosen, read_weights(path), str(path))


def give_rest(t: Parts, source: Path) -> None:
    """Fill everything else."""
    try:
        position = read_position(source)
    except ValueError as error:
        raise UserError(f"{error}; resume=another checkpoint, or never") from None
    try:
        _give(t, source, position, yaml.safe_load((source / "config.yaml").read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        if "checksum" in position:
            raise  # it is what was written, so this is a fault of ours
        raise UserError(
            f"{source}: position.json or config.yaml in it is damaged ({error!r}); resume=another checkpoint, or never"
        ) from error


def _give(t: Parts, source: Path, position: dict[str, Any], config: dict[str, Any]) -> None:
    before = config["optim"]["kind"]
    if before != t.run.optim.kind:
        raise UserError(
            f"{source}: it was saved with optim.kind={before}, whose state {t.run.optim.kind} cannot read; set it "
            f"back, or begin another run, with another out, from these weights: init.source={source}"
        )
    if Tokenizer.load(source / "model").backend.get_vocab() != t.tokenizer.backend.get_vocab():
        raise UserError(
            f"tokenizer: {t.run.tokenizer} has another vocabulary than the run had in {source}, whose weights would "
            f"read nonsense; set tokenizer={source / 'model'}, or begin another run"
        )
    kept = read_weights(source / "state" / "optimizer.safetensors")
    t.strategy.load_optimizer_state(renamed(kept, source, t.saver.notes), str(source))
    if t.average is not None:
        if not (source / "average").is_dir():
            raise UserError(f"{source}: it has no average/; it was saved by a run without average.decay")
        whole = read_state(source / "average")
        for name, part in t.average.parts.items():
            part.copy_(t.strategy.part_of(name, whole[name.removeprefix(MODEL)]))
    if t.strategy.scale is not None and position["scale"] is not None:
        t.strategy.scale.value, t.strategy.scale.held = position["scale"]
    t.taken, t.threads = position["step"], int(position.get("threads", 0))
    t.loader.load_state_dict({**_blocks(config.get("data") or {}), **position["loader"]})
    t.guard.load_state_dict(position["guard"])
    t.saver.remember(position["best"])


def _blocks(data: dict[str, Any]) -> dict[str, Any]:
    """Return what a config says of the order, for checkpoints that do not say it themselves."""
    block = data.get("block", 1)
    return {} if data.get("pure") else {"block": block, **({"window": data.get("window", 16)} if block > 1 else {})}


def renamed(kept: Mapping[str, Tensor], source: Path, notes: list[str]) -> dict[str, Tensor]:
    """Return what an earlier checkpoint kept by today's names; a note says that it was one."""
    names, used = by_todays_name(kept)
    if used:
        notes.append(f"{source}: saved with earlier names, read by today's ({'; '.join(used)})")
    return {names[name]: value for name, value in kept.items()}


def copied(value: Tensor) -> Tensor:
    """Return a copy in host memory that shares nothing with `value`."""
    return value.detach().to("cpu", copy=True).contiguous()


def below(prefix: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the values whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _whole(t: Parts, *prefixes: str) -> dict[str, Tensor]:
    main = t.accelerator.is_main_process
    return {name: copied(value) for name, value in t.strategy.weights(prefixes) if main}
