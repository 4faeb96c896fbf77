"""One process, or several with a copy of everything each (DDP): the interface of all strategies.

A strategy owns the optimizer. What leaves it (weights, optimizer state) is whole and has the names of the bare step, so
a checkpoint says nothing of how many processes wrote it, or by which strategy.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmclr.errors import UserError
from mmclr.train.strategies.loss_scale import LossScale
from mmclr.train.strategies.scalars import plain_name, plain_shape


class Plain:
    """`step` is the bare Step, `wrapped` what the trainer calls in its place."""

    cut: Set[str] = frozenset()  # which of weights, gradients and states the ranks share out among themselves

    def __init__(
        self,
        accelerator: Accelerator,
        step: nn.Module,
        build: Callable[[nn.Module], torch.optim.Optimizer],
        clip_norm: float | None,
        scale: LossScale | None = None,
    ) -> None:
        self.accelerator, self.step, self.clip_norm, self.scale = accelerator, step, clip_norm, scale
        self.wrapped, self.optimizer = self._wrap(build)
        self.parameters = {plain_name(name): p for name, p in step.named_parameters()}
        self.stored_names = {plain_name(name): name for name, _ in step.named_parameters()}

    def _wrap(self, build: Callable[[nn.Module], torch.optim.Optimizer]) -> tuple[nn.Module, torch.optim.Optimizer]:
        optimizer = build(self.step)
        with warnings.catch_warnings():  # torch wants another name for broadcast_buffers, which does less
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return self.accelerator.prepare_model(self.step), optimizer

    def size(self, name: str) -> int:
        """Return how many numbers a whole parameter has."""
        return self.parameters[name].numel()

    # The gradient

    def local(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which forward and backward do not finish the global gradient: more is to come."""
        return self.accelerator.no_sync(self.wrapped)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`."""
        (loss if self.scale is None else loss * self.scale.value).backward()

    def zero_gradient_term(self) -> Tensor | float:
        """Return 0 with a gradient of 0 for every parameter: DDP sums a gradient over ranks only when one arrives."""
        if not isinstance(self.wrapped, DistributedDataParallel):
            return 0.0
        return 0.0 * torch.stack([p.flatten()[0] for p in self.step.parameters() if p.requires_grad]).sum()

    def norm(self) -> Tensor:
        """Return the norm of the global gradient, the same on every rank."""
        norm = nn.utils.get_total_norm(list(self.gradients().values()))
        return norm if self.scale is None else norm / self.scale.value

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients that this rank holds, by parameter."""
        return {name: p.grad for name, p in self.parameters.items() if p.grad is not None}

    # The update

    def update(self, norm: Tensor) -> None:
        """Change the weights by the gradient, whose norm is `norm`, and forget it."""
        if self.scale is not None:
            torch._foreach_mul_(list(self.gradients().values()), 1 / self.scale.value)
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters.values(), self.clip_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def skip(self) -> None:
        """Forget the gradient."""
        self.optimizer.zero_grad()

    # What a checkpoint holds

    def shards(self) -> dict[str, Tensor]:
        """Return this rank's part of every parameter: tensors that share its memory."""
        return {name: p.data for name, p in self.parameters.items()}

    def weights_changed(self, names: Iterable[str]) -> None:
        """Take note that these parts (as in `shards`) were changed in place."""

    @contextlib.contextmanager
    def swapped_weights(self, other: Mapping[str, Tensor]) -> Iterator[None]:
        """Hold other weights for a while (parts as in `shards`), and `other` holds these."""
        self._swap(other)
        try:
            yield
        finally:
            self._swap(other)

    @torch.no_grad()
    def _swap(self, other: Mapping[str, Tensor]) -> None:
        mine = self.shards()
        for name, part in other.items():
            kept = mine[name].clone()
            mine[name].copy_(part)
            part.copy_(kept)
        self.weights_changed(other)

    @torch.no_grad()
    def weights(self, prefixes: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        """Yield the whole parameters, and the buffers, whose names begin so. All ranks must take all of them."""
        for name, value in self.step.state_dict().items():
            if plain_name(name) not in self.parameters and name.startswith(prefixes):
                yield name, value
        for name in self.parameters:
            if name.startswith(prefixes):
                yield name, plain_shape(self.stored_names[name], self._whole(name))

    @torch.no_grad()
    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what the optimizer remembers of every parameter, whole, as KEY/PARAMETER. All ranks must take all."""
        for name, p in self.parameters.items():
            for key, value in self._state_of(name, p):
                yield f"{key}/{name}", value

    @torch.no_grad()
    def load_optimizer_state(self, state: Mapping[str, Tensor], where: str) -> None:
        """Take in what `optimizer_state` gave, at whatever number of processes and by whatever strategy."""
        found: dict[str, dict[str, Tensor]] = {}
        for path, value in state.items():
            key, name = path.split("/", 1)
            found.setdefault(name, {})[key] = value
        own = {name for name, p in self.parameters.items() if p.requires_grad}
        other = sorted(found.keys() ^ own) if found else []
        wrong = [n for n in found.keys() & own for v in found[n].values() if v.ndim and v.numel() != self.size(n)]
        if other or wrong:
            raise UserError(
                f"{where}: its optimizer state is of another run (it differs in {(other or wrong)[0]}); "
                "set resume: never"
            )
        for name, entry in found.items():
            self._set_state(name, entry)

    def part_of(self, name: str, whole: Tensor) -> Tensor:
        """Return this rank's part of a tensor that has a parameter's shape, as a new tensor like in `shards`."""
        return whole.to(self.accelerator.device, copy=True).view_as(self.parameters[name])

    # How a strategy keeps things; the others differ here

    def _whole(self, name: str) -> Tensor:
        """Return a parameter, or by its name what has its shape, as one tensor."""
        return self.parameters[name].detach()

    def _state_of(self, name: str, p: Tensor) -> Iterator[tuple[str, Tensor]]:
        for key, value in self.optimizer.state.get(p, {}).items():
            yield key, plain_shape(self.stored_names[name], value) if value.ndim else value

    def _set_state(self, name: str, entry: dict[str, Any]) -> None:
        p = self.parameters[name]
        self.optimizer.state[p] = {
            key: value.to(p.device, copy=True) if key == "step" else self.part_of(name, value)
            for key, value in entry.items()
        }
