"""Learning rates against the formula, groups by what they hold, Muon against the singular value decomposition."""

import math

import pytest
import torch

from mmclr import errors
from mmclr.config import ConfigError, check
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer
from mmclr.train.muon import Muon, orthogonalise
from mmclr.train.optimizer import OptimConfig, build, learning_rate, set_rate


def model():
    torch.manual_seed(0)
    return TwoTower(with_tokenizer(check(ModelConfig, {"preset": "icons"}), 600, 598, 599, 599), bias=True)


def test_warms_up_then_follows_a_cosine():
    c = OptimConfig(lr=2.0, warmup=10, final=0.1)
    rates = [learning_rate(c, step, 110) for step in range(110)]
    assert rates[:10] == pytest.approx([2.0 * (i + 1) / 10 for i in range(10)])
    assert rates[10:] == pytest.approx(
        [2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * i / 100))) for i in range(100)]
    )
    assert learning_rate(OptimConfig(lr=1.0, warmup=0.5, schedule="linear"), 75, 100) == pytest.approx(0.5)
    assert learning_rate(OptimConfig(lr=1.0, warmup=0, schedule="constant"), 99, 100) == 1.0


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_and_vectors_do_not_decay(kind):
    net = model()
    groups = build(OptimConfig(kind=kind), net).param_groups
    names = {id(p): name for name, p in net.named_parameters()}
    held = [names.pop(id(p)) for group in groups for p in group["params"]]
    assert not names
    assert len(held) == len(set(held))
    for group in groups:
        for p in group["params"]:
            assert (group["weight_decay"] > 0) <= (p.ndim > 1)
    still = [p for group in groups if not group["weight_decay"] for p in group["params"]]
    assert any(p is net.logit_scale for p in still)
    assert any(p is net.text_model.embeddings.position_embedding.weight for p in still)


def test_rates_go_by_factor():
    optimizer = build(OptimConfig(kind="muon", matrix_lr=2.0), model())
    set_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25, 0.25]


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 12), (2, 12, 5)])
def test_orthogonalise_against_the_svd(shape):
    """Same singular vectors, singular values near 1."""
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    out = orthogonalise(x).double()
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    core = u.mT @ out @ v.mT
    values = core.diagonal(dim1=-2, dim2=-1)
    assert (core - torch.diag_embed(values)).abs().max() < 1e-4
    assert values.min() > 0.3  # the smallest of a badly conditioned matrix are lifted last
    assert values.max() < 1.3


def test_muon_step_against_the_formula():
    torch.manual_seed(0)
    w, b, grad = torch.randn(4, 6), torch.randn(6), torch.randn(2, 4, 6)
    p, q = torch.nn.Parameter(w.clone()), torch.nn.Parameter(b.clone())
    twin = torch.nn.Parameter(b.clone())
    groups = [{"params": [p], "orthogonal": True, "momentum": 0.9}, {"params": [q]}]
    muon = Muon(groups, lr=0.1, weight_decay=0.5, fused=True)
    adam = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.5, fused=True)
    momentum = torch.zeros(4, 6)
    for g in grad:
        p.grad, q.grad, twin.grad = g.clone(), torch.ones(6), torch.ones(6)
        muon.step()
        adam.step()
        momentum = 0.9 * momentum + 0.1 * g
        ahead = 0.1 * g + 0.9 * momentum
        w = w * (1 - 0.1 * 0.5) - 0.1 * 0.2 * math.sqrt(6) * orthogonalise(ahead[None])[0]
    torch.testing.assert_close(p.data, w)
    torch.testing.assert_close(q, twin)


def test_muon_state_goes_on_where_it_was():
    def steps(net, optimizer, numbers):
        for number in numbers:
            torch.manual_seed(number)
            for p in net.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()

    whole, broken = model(), model()
    one, two = (build(OptimConfig(kind="muon"), net) for net in (whole, broken))
    steps(whole, one, range(4))
    steps(broken, two, range(2))
    again = build(OptimConfig(kind="muon"), broken)
    again.load_state_dict(two.state_dict())
    steps(broken, again, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), broken.parameters()))


@pytest.mark.parametrize("old", ["sources.0.model.visual", "sources.*.model.visual"])
def test_patterns_with_earlier_names_mean_todays_and_that_is_said(old, capsys, monkeypatch):
    monkeypatch.setattr(errors, "_noted", set())
    net = torch.nn.ModuleDict({"providers": torch.nn.ModuleDict({"student": torch.nn.Module()})})
    towers = {side: torch.nn.Linear(2, 2) for side in ("visual", "text")}
    net["providers"]["student"].model = torch.nn.ModuleDict(towers)
    config = check(OptimConfig, {"groups": {old: {"lr": 0.5}}})
    factors = {id(p): group["factor"] for group in build(config, net).param_groups for p in group["params"]}
    found = {name: factors[id(p)] for name, p in net.named_parameters()}
    assert {n: f for n, f in found.items() if f != 1} == dict.fromkeys((n for n in found if "visual" in n), 0.5)
    said = capsys.readouterr().err
    assert "optim.groups: written with earlier names" in said
    assert "sources.N.model. is providers.student.model." in said
    with pytest.raises(ConfigError, match=r"optim.groups.sources.0.nothing: no trained weight has such a name"):
        build(check(OptimConfig, {"groups": {"sources.0.nothing": {}}}), net)
