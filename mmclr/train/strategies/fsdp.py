"""FSDP2: every parameter, its gradient and its optimizer state are cut into one part per rank.

The whole is put together for one block of a tower at a time, and so is its gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mmclr.models.tower import towers
from mmclr.train.strategies.plain import Plain
from mmclr.train.strategies.scalars import lift, plain_shape


class Fsdp(Plain):
    """Shards as accelerate's fsdp_config says: reshard_after_forward, offload_params, the mesh of its ranks."""

    cut = frozenset({"weights", "gradients", "states"})

    def _wrap(self, build: Callable[[nn.Module], torch.optim.Optimizer]) -> tuple[nn.Module, torch.optim.Optimizer]:
        plugin, mesh = self.accelerator.state.fsdp_plugin, self.accelerator.torch_device_mesh
        how: dict[str, Any] = {"reshard_after_forward": plugin.reshard_after_forward}
        if plugin.cpu_offload is not None and plugin.cpu_offload is not False:
            how["offload_policy"] = plugin.cpu_offload
        if mesh is not None:
            how["mesh"] = mesh[tuple(self.accelerator.parallelism_config.fsdp_dim_names)]
        lift(self.step)
        self.step.to(self.accelerator.device)
        for block in blocks(self.step):
            fully_shard(block, **how)
        fully_shard(self.step, **{**how, "reshard_after_forward": False})
        return self.step, build(self.step)

    def local(self) -> contextlib.AbstractContextManager[None]:
        """Return no context: whole gradients, kept until the last micro-batch, are what shards avoid."""
        return contextlib.nullcontext()

    def norm(self) -> Tensor:
        """Return the norm of the global gradient, the same on every rank."""
        norm = super().norm()
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return whole.to(self.accelerator.device)  # gradients that are offloaded lie elsewhere

    @property
    def _cut_ones(self) -> dict[str, DTensor]:
        """The parameters, which fully_shard has cut."""
        return cast(dict[str, DTensor], self.parameters)

    def shards(self) -> dict[str, Tensor]:
        """Return this rank's part of every parameter: tensors that share its memory."""
        return {name: p.to_local().detach() for name, p in self._cut_ones.items()}

    def _whole(self, name: str) -> Tensor:
        return self._cut_ones[name].detach().full_tensor()  # type: ignore[attr-defined]

    def _state_of(self, name: str, p: Tensor) -> Iterator[tuple[str, Tensor]]:
        for key, value in self.optimizer.state.get(p, {}).items():
            if isinstance(value, DTensor):
                yield key, plain_shape(self.stored_names[name], value.full_tensor())
            else:
                yield key, value

    def _set_state(self, name: str, entry: dict[str, Any]) -> None:
        p = self._cut_ones[name]
        self.optimizer.state[p] = {
            key: value.to(p.device, copy=True) if key == "step" else self._cut(value, p) for key, value in entry.items()
        }

    def part_of(self, name: str, whole: Tensor) -> Tensor:
        """Return this rank's part of a tensor that has a parameter's shape, as a new tensor like in `shards`."""
        return self._cut(whole, self._cut_ones[name]).to_local().clone()

    def _cut(self, value: Tensor, p: DTensor) -> DTensor:
        whole = value.to(p.device).view(p.shape)
        cut = distribute_tensor(whole, p.device_mesh, p.placements, src_data_rank=None)
        return cast(DTensor, cut.to(p.device))  # the mesh's device is not that of parameters that are offloaded


def blocks(module: nn.Module) -> list[nn.Module]:
    """Return the blocks of all towers. A tower that is no chain of blocks is put together with what is around it."""
    return [block for tower in towers(module) for block in tower.blocks()]
