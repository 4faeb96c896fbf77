"""2 and 4 processes with a share of the batch equal one process with all of it: value, gradients and state."""

import pytest
import torch
from torch.nn import functional as F

from mmclr import parallel, vocabulary
from tests import bounds
from tests.laws.objectives import CASES, NAMES, close, features, make, wants_gradient
from tests.ranks import run

pytestmark = pytest.mark.dist
BATCH = 8


def train(key, fields, steps, dtype):
    """Two steps through linear towers on this rank's rows; what a trainer would see, by name."""
    objective = make(key, fields, dtype=dtype)
    seen = {}
    for number, inputs in enumerate(steps):
        leaves, given = {}, {}
        for name, x in inputs.items():
            x = x.detach().to(dtype) if x.is_floating_point() else x
            per_sample = vocabulary.FEATURES[name].per_sample
            given[name] = parallel.own_rows(x) if per_sample else x
            if wants_gradient(name):
                given[name] = leaves[f"rows of {name}" if per_sample else name] = given[name].clone().requires_grad_()
            if wants_gradient(name) and per_sample:
                tower = torch.randn(x.shape[-1], x.shape[-1], generator=torch.Generator().manual_seed(3), dtype=dtype)
                leaves[f"tower of {name}"] = tower.requires_grad_()
                given[name] = F.normalize(given[name] @ tower, dim=-1)
        leaves |= {f"own {name}": p for name, p in objective.named_parameters() if p.requires_grad}
        value = objective(**given)
        grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        objective.after_step()
        seen[f"{number} value"] = value.detach()
        for (name, leaf), grad in zip(leaves.items(), grads):
            grad = torch.zeros_like(leaf) if grad is None else grad
            # Rows belong to a rank; what is replicated is averaged over ranks, as DDP does.
            whole = parallel.gather(grad) if name.startswith("rows") else parallel.total(grad)
            seen[f"{number} {name}"] = whole / parallel.world()
        own = objective.state_dict()  # what is shared out, whole on the first rank only
        seen |= {f"{number} {name}": own[name].clone() for name in kept(objective) if parallel.rank() == 0}
    return seen


def kept(objective):
    """Return the names of the objective's state that is not trained."""
    return sorted(objective.state_dict().keys() - dict(objective.named_parameters()).keys())


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize(("key", "fields"), CASES, ids=NAMES)
def test_ranks_together_equal_one_process(key, fields, world):
    steps = [{n: x.detach() for n, x in features(make(key, fields), b=BATCH, seed=s).items()} for s in (5, 6)]
    for dtype in (torch.float64, torch.float32):
        tolerance = bounds.bound(dtype, terms=64, size=32)  # exponents, and the conditions of whitening and solving
        alone = train(key, fields, steps, dtype)
        several = run(world, train, key, fields, steps, dtype)
        assert several[0].keys() == alone.keys()
        for seen in several:
            for name, value in seen.items():
                assert close(value, alone[name], tolerance), f"{name}: {value} is not {alone[name]}"
