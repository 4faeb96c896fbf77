"""DeepSpeed's ZeRO: optimizer state (stage 1), gradients (2) and weights (3) are cut into one part per rank.

Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, SC 2020, arXiv 1910.02054.
The engine is operated directly, not through accelerate, whose backward also steps: what is not finite must be seen
before the weights change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mmclr import parallel
from mmclr.errors import UserError
from mmclr.train.muon import Muon
from mmclr.train.strategies.fsdp import blocks
from mmclr.train.strategies.plain import Plain
from mmclr.train.strategies.scalars import lift, plain_shape


class Zero(Plain):
    """Weights are float32 (the step casts them itself), and so is what ranks exchange."""

    def _wrap(self, build: Callable[[nn.Module], torch.optim.Optimizer]) -> tuple[nn.Module, torch.optim.Optimizer]:
        from deepspeed.utils import set_z3_leaf_modules

        plugin = self.accelerator.state.deepspeed_plugin
        self.stage = plugin.zero_stage
        self.cut = set(("states", "gradients", "weights")[: self.stage])
        if self.stage == 0:
            raise UserError("zero_stage: 0 in the accelerate config is plain data parallelism; use MULTI_GPU for it")
        lift(self.step)
        optimizer = build(self.step)
        if isinstance(optimizer, Muon):
            raise UserError("optim.kind: muon needs whole matrices, and ZeRO keeps parts of them; use DDP or FSDP2")
        if self.stage == 3:
            kinds = {type(block) for block in blocks(self.step)} - {nn.Sequential}  # whose name is all kinds of things
            if kinds:
                set_z3_leaf_modules(self.step, list(kinds))
        plugin.deepspeed_config.update(self._settings(plugin.deepspeed_config))
        engine, _ = self.accelerator.prepare(self.step, optimizer)
        self.zero: Any = engine.optimizer
        if self.stage == 3:
            self._await_gradients()
        self.several = False  # whether this step has more than one backward
        self._begin()
        return engine, self.zero.optimizer

    def _await_gradients(self) -> None:
        """Let each weight's gradient go to the ranks when autograd has all of it.

        DeepSpeed would send those of a block at the end of a backward through it, and two views mean two of them.
        """
        for hook in (*self.zero._leaf_module_hooks, *self.zero._grad_acc_hooks):
            hook.remove()
        for p in self.step.parameters():
            p.__dict__.pop("ds_z3_leaf_module", None)
        self.zero.create_reduce_and_remove_grad_hooks()

    def _settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return what the run decides of DeepSpeed's config; micro-batches are ours, with the exact gradient."""
        if given.get("gradient_accumulation_steps", 1) not in (1, "auto"):
            raise UserError("gradient_accumulation_steps of the accelerate config must be 1; set micro_batch instead")
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.clip_norm or 0.0,
            "steps_per_print": 10**9,
        }

    @contextlib.contextmanager
    def local(self) -> Iterator[None]:
        """In this context forward and backward do not finish the global gradient: more is to come."""
        engine: Any = self.wrapped
        engine.set_gradient_accumulation_boundary(False)
        yield
        engine.set_gradient_accumulation_boundary(True)
        self.several = True

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`."""
        engine: Any = self.wrapped
        engine.backward(loss)

    def norm(self) -> Tensor:
        """Return the norm of the global gradient, the same on every rank."""
        from deepspeed.runtime.utils import combine_grad_norm_groups

        zero = self.zero
        norm = combine_grad_norm_groups(zero._get_norm_groups()) if self.stage == 3 else zero.scaled_global_norm()
        norm = torch.as_tensor(norm, device=self.accelerator.device).float()
        norm = norm.where(norm.isfinite() & (norm >= 0), torch.nan)  # DeepSpeed says -1 or infinity
        return norm if self.scale is None else norm / self.scale.value

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients, by parameter. All ranks must ask."""
        from deepspeed.utils import safe_get_full_grad

        found = {name: safe_get_full_grad(p) for name, p in self.parameters.items() if p.requires_grad}
        return {name: gradient for name, gradient in found.items() if gradient is not None}

    def update(self, norm: Tensor) -> None:
        """Change the weights by the gradient, clipped, and forget it."""
        engine: Any = self.wrapped
        engine.step()
        self._begin()

    def skip(self) -> None:
        """Forget the gradient."""
        zero = self.zero
        zero.zero_grad(set_to_none=True)
        if self.stage == 3:
            zero._overflow_clean_up(1.0)
        else:
            zero.micro_step_id = -1
            zero._release_preflattened_grad_buffers()
            for number in zero.averaged_gradients:
                zero.averaged_gradients[number] = zero.all_grad_tensors[number] = None
        self._begin()

    def _begin(self) -> None:
        """Make ready for the next step's first backward."""
        if self.stage == 3 and self.several:  # what the first backward does not reach would add to the last step's
            self.zero.grad_partitions_flat_buffer.zero_()
        self.several = False
        if self.scale is not None:
            self.zero.override_loss_scale(self.scale.value)

    def shards(self) -> dict[str, Tensor]:
        """Return this rank's part of every parameter: tensors that share its memory."""
        parameters: dict[str, Any] = self.parameters  # to which DeepSpeed has given more attributes
        return {name: p.ds_tensor.data if self.stage == 3 else p.data for name, p in parameters.items()}

    def weights_changed(self, names: Iterable[str]) -> None:
        """Forget what stage 3 has put together of these weights: it is put together again when it is read."""
        if self.stage == 3:
            parameters: dict[str, Any] = self.parameters
            for name in names:
                parameters[name].partition()

    def part_of(self, name: str, whole: Tensor) -> Tensor:
        """Return this rank's part of a tensor that has a parameter's shape, as a new tensor like in `shards`."""
        if self.stage < 3:
            return super().part_of(name, whole)
        part = torch.zeros_like(self.shards()[name])
        source = whole.flatten()[part.numel() * parallel.rank() :][: part.numel()]
        part[: source.numel()].copy_(source)
        return part

    def _whole(self, name: str) -> Tensor:
        if self.stage < 3:
            return super()._whole(name)
        import deepspeed

        with deepspeed.zero.GatheredParameters([self.parameters[name]]):
            return self.parameters[name].detach().clone()

    def size(self, name: str) -> int:
        """Return how many numbers a whole parameter has."""
        p: Any = self.parameters[name]
        return p.ds_numel if self.stage == 3 else p.numel()

    def _state_of(self, name: str, p: Tensor) -> Iterator[tuple[str, Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        states = [state for state in self.optimizer.state.values() if state]
        if not states or not p.requires_grad:
            return
        if self.stage < 3:  # DeepSpeed links states after its first group's first step, when the others have none
            self.zero._hp_optimizer_states_linked = False
            self.zero._lazy_init_hp_params_optimizer_state()
        for key, value in states[0].items():
            if key == "step":
                yield key, value
            else:
                yield key, plain_shape(self.stored_names[name], safe_get_full_optimizer_state(p, key))

    def _set_state(self, name: str, entry: dict[str, Any]) -> None:
        p: Any = self.parameters[name]
        self._make_states(entry)
        for key, value in entry.items():
            if key != "step":
                part = self._part_of_state(p, key)
                if part is not None:
                    target, start = part
                    source = value.flatten()[start : start + target.numel()].to(target.device)
                    target[: source.numel()].copy_(source)

    def _make_states(self, entry: dict[str, Any]) -> None:
        """Create empty states with the keys of `entry`, as the optimizer's first step would."""
        if self.optimizer.state:
            return
        zero = self.zero
        flat = zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups
        for p in flat:
            self.optimizer.state[p] = {
                key: value.to(p.device, copy=True) if key == "step" else torch.zeros_like(p)
                for key, value in entry.items()
            }
        if self.stage < 3:
            zero._lazy_init_hp_params_optimizer_state()

    def _part_of_state(self, p: Any, key: str) -> tuple[Tensor, int] | None:
        """Return this rank's part of a parameter's state, and where in the flat parameter it begins."""
        if self.stage == 3:
            part, _ = self.zero._get_fp32_opt_state_partition(p, release_swap_buffers=False, optim_state_key=key)
            return part, part.numel() * parallel.rank()
        mapping = p._hp_mapping
        return None if mapping is None else (mapping.get_optim_state_fragment(key), mapping.lp_fragment_address.start)
