"""Constants of a computation, kept at the first time and given again when it is repeated.

So a function with stopped gradients can be compared with its finite differences: autograd's gradient is the derivative
of the function in which all that is detached, or computed without gradient, is a constant.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Stopped(TorchFunctionMode):
    """Enter it once for each run of the computation, which must call the same functions each time.

    The inside of a torch.autograd.Function is left alone: its backward has to be the derivative of its forward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.whole = False  # after the first run
        self.at = self.inside = 0

    def __enter__(self) -> Any:
        original = torch.autograd.Function.__dict__["apply"].__func__

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            self.inside += 1
            try:
                return original(cls, *args, **kwargs)
            finally:
                self.inside -= 1

        self.at = 0
        self.patch = mock.patch.object(torch.autograd.Function, "apply", classmethod(apply))
        self.patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.patch.stop()
        self.whole = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        stops = not self.inside and (func is Tensor.detach or not torch.is_grad_enabled())
        if not (stops and isinstance(found, Tensor) and found.is_floating_point()):
            return found
        if not self.whole:
            self.kept.append(found.detach().clone())
            return found
        kept, self.at = self.kept[self.at], self.at + 1
        return found.copy_(kept) if any(found is x for x in args) else kept.clone()
