"""Parameters without a dimension, which neither FSDP2 nor DeepSpeed can share out."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

_LIFTED, _OWN = ".parametrizations.", ".original"


class _Scalar(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(0)

    def right_inverse(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0)


def lift(module: nn.Module) -> None:
    """Store every scalar parameter as a vector of one number; whoever reads it still finds a scalar."""
    for owner in list(module.modules()):
        for name, p in list(owner.named_parameters(recurse=False)):
            if p.ndim == 0:
                parametrize.register_parametrization(owner, name, _Scalar(), unsafe=True)
                getattr(owner.parametrizations, name).original.requires_grad_(p.requires_grad)


def plain_name(name: str) -> str:
    """Return the name that a parameter had before `lift`."""
    return name.replace(_LIFTED, ".").removesuffix(_OWN) if _LIFTED in name else name


def plain_shape(name: str, value: Tensor) -> Tensor:
    """Return a parameter's value in the shape that it had before `lift`."""
    return value.reshape(()) if _LIFTED in name else value
