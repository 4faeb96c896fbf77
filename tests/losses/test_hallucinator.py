"""hallucinator, hallucinator_texts: the card's moves, closed forms, reductions, and where gradients go."""

import pytest
import torch
from torch.nn import functional as F

from mmclr import sample_random
from mmclr.errors import UserError
from mmclr.losses import Facts, build
from mmclr.losses.hard.hallucinator import hallucinate, smoother
from tests import bounds
from tests.losses.cards import F3, batch, random_pairs

LATE = torch.tensor(0.5)


def call(fields, pairs, tau=0.5, progress=LATE, key="hallucinator", objective=None, **more):
    torch.manual_seed(0)
    features = batch(pairs, tau, progress=progress, **more)
    features.setdefault("index", torch.arange(len(features["image"])))
    if objective is None:
        objective = build(key, fields)
        objective.setup(Facts.example(width=features["image"].shape[1]))
        objective.double()
    torch.manual_seed(0)
    return objective(**{name: features[name] for name in objective.needs}), features, objective


def test_the_numbers_of_the_card():
    image, text = (torch.tensor(side, dtype=torch.float64) for side in F3)
    h = hallucinate(text, image, torch.full((3, 1), 0.5, dtype=torch.float64), None, 0.0)
    expected = torch.tensor([(0.613941, 0.789352), (-0.263117, 0.964764), (-0.407940, 0.913009)], dtype=torch.float64)
    torch.testing.assert_close(h, expected, rtol=0, atol=bounds.printed(6))
    others = (2 * image @ text.T).masked_fill(torch.eye(3).bool(), -torch.inf).logsumexp(1)
    more = F.softplus(others - 2 * (image * h).sum(1))
    assert more.tolist() == pytest.approx([0.378592, 1.378879, 1.002377], abs=bounds.printed(6))
    own = F.softplus(others - 2 * (image * text).sum(1)).mean()
    assert (own + more.mean()).item() == pytest.approx(1.697866, abs=bounds.printed(6))


def test_a_move_makes_it_harder_by_the_closed_form():
    u, v = (torch.tensor(side, dtype=torch.float64) for side in random_pairs(20))
    lam, s = torch.linspace(0, 1, 20, dtype=torch.float64), (u * v).sum(1)
    found = (u * hallucinate(v, u, lam[:, None], None, 0.0)).sum(1)
    torch.testing.assert_close(found, (s - lam * (1 - s)) / (1 + 2 * lam * (1 + lam) * (1 - s)).sqrt())
    assert (found <= s + 1e-12).all()


@pytest.mark.parametrize("fields", [{"extra": 0.0}, {"begin": 0.6}, {"begin": 0.6, "rho": 0.0}])
@pytest.mark.parametrize("key", ["hallucinator", "hallucinator_texts"])
def test_without_more_positives_it_is_clip(fields, key):
    value, _, _ = call(fields, F3, key=key, texts=torch.tensor(F3[1], dtype=torch.float64)[:, None].repeat(1, 2, 1))
    assert value.item() == pytest.approx(0.815062, abs=bounds.printed(6))


def test_unmoved_positives_count_again():
    value, _, _ = call({"lam_max": 0.0, "rho": 0.0, "extra": 0.7}, F3)
    assert value.item() == pytest.approx(1.7 * 0.815062, abs=bounds.printed(6))
    plain, _, _ = call({"lam_max": 0.0, "extra": 0.7}, F3)  # a network that has not learnt yet
    assert plain.item() == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_equal_to_the_matrices_written_out(rho):
    """Values and gradients, with a network that has learnt something; the source of a move is constant."""
    b, tau = 12, 0.2
    objective = call({"rho": rho, "extra": 0.6, "lam_max": 0.8}, random_pairs(b))[2]
    for p in objective.parameters():
        torch.nn.init.normal_(p, std=0.5)
    value, features, _ = call({}, random_pairs(b), tau, objective=objective, caption_id=torch.arange(b) % 8)
    image, text, ids = features["image"], features["text"], torch.arange(b) % 8
    torch.manual_seed(0)
    lam = 0.8 * sample_random.uniform(features["index"], sample_random.seed(ids), 2)
    total, none = 0, ids[:, None] == ids
    for number, (x, y, name) in enumerate(((image, text, "of_text"), (text, image, "of_image"))):
        others = (x @ y.T / tau).masked_fill(none, -torch.inf).logsumexp(1)
        e = y + lam[:, number, None] * (y - x.detach())
        h = F.normalize(e + rho * getattr(objective, name)(e) if rho else e, dim=1)
        for positive, weight in ((y, 1.0), (h, 0.6)):
            total = total + weight * F.softplus(others - (x * positive).sum(1) / tau).mean() / 2
    assert value.item() == pytest.approx(total.item(), rel=1e-12)
    leaves = [image, text, *objective.parameters()]
    for mine, other in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(total, leaves)):
        torch.testing.assert_close(mine, other, **bounds.near())


@pytest.mark.parametrize("key", ["hallucinator", "hallucinator_texts"])
def test_networks_have_a_gradient_from_the_first_step_on(key):
    """Of 0 before they count, where DDP would wait for none; later the last layer's is not 0, though it gives 0."""
    texts = torch.tensor(random_pairs(9, seed=3)[0], dtype=torch.float64)[:, None].repeat(1, 2, 1)
    texts[:, 1] = torch.tensor(random_pairs(9, seed=4)[0])
    for progress, moves in ((0.05, False), (0.5, True)):
        value, _, objective = call({}, random_pairs(9), progress=torch.tensor(progress), key=key, texts=texts)
        value.backward()
        grads = {name: p.grad for name, p in objective.named_parameters()}
        assert all(g is not None for g in grads.values())
        assert all(bool(g.any()) == moves for name, g in grads.items() if ".out." in name)


def test_captions_move_away_from_the_second_one():
    texts = torch.tensor(random_pairs(9, seed=3)[0] + random_pairs(9, seed=4)[0], dtype=torch.float64)
    texts = texts.view(2, 9, 8).transpose(0, 1).clone().requires_grad_()
    fields = {"rho": 0.0, "lam_max": 0.5}
    value, features, _ = call(fields, random_pairs(9), key="hallucinator_texts", texts=texts)
    image, v, second = features["image"], texts[:, 0], texts[:, 1].detach()
    torch.manual_seed(0)
    lam = 0.5 * sample_random.uniform(features["index"], sample_random.seed(features["index"]), 1)
    h = F.normalize(v + lam * (v - second), dim=1)
    logits, eye = 2 * image @ v.T, torch.eye(9).bool()
    of_row, of_col = (m.masked_fill(eye, -torch.inf).logsumexp(1) for m in (logits, logits.T))
    total = F.softplus(of_row - logits.diagonal()) + F.softplus(of_col - logits.diagonal())
    total = (total + F.softplus(of_row - 2 * (image * h).sum(1))).mean() / 2
    assert value.item() == pytest.approx(total.item(), rel=1e-12)
    assert not torch.autograd.grad(value, texts)[0][:, 1].any()


def test_one_caption_is_not_enough():
    with pytest.raises(UserError, match=r"set data\.texts: 2"):
        call({}, F3, key="hallucinator_texts")


def test_a_network_gives_nothing_at_first():
    network = smoother(6, 2)
    assert not network(torch.randn(4, 6)).any()
    assert network.linear[0].weight.shape == (12, 6)


def test_fields_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="at least 0"):
        build("hallucinator", {"lam_max": -1.0})
