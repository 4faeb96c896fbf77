"""swav: the card's assignments and losses, prototypes that stand still, views, and the queue."""

import pytest
import torch
from torch.nn import functional as F

from mmclr import parallel
from mmclr.losses import Facts, build
from mmclr.losses.sinkhorn import sinkhorn
from tests import bounds
from tests.losses.cards import F3, batch, random_pairs
from tests.ranks import run

PROTOTYPES = torch.tensor([(1, 0), (0, 1), (-0.6, 0.8)], dtype=torch.float64)


def ready(fields, prototypes=PROTOTYPES, key="swav"):
    torch.manual_seed(0)
    objective = build(key, {"prototypes": len(prototypes), "freeze": 0.0, "queue_begin": 0.0, **fields})
    objective.setup(Facts(width=prototypes.shape[1]))
    objective.prototype.data = prototypes.clone()
    return objective


def call(objective, pairs, progress=0.5, **more):
    features = batch(pairs, **more) | {"progress": torch.tensor(progress)}
    return objective(**{name: features[name] for name in objective.needs}), features


def test_the_assignments_of_the_card():
    of_image, of_text = (torch.tensor(side).double() @ PROTOTYPES.T for side in F3)
    q = sinkhorn(of_image, 0.5, 3)
    expected = [[0.774392, 0.138519, 0.087088], [0.22591, 0.445443, 0.328646], [0.040931, 0.399743, 0.559326]]
    torch.testing.assert_close(q, torch.tensor(expected).double(), rtol=0, atol=bounds.printed(6))
    torch.testing.assert_close(
        q.sum(0), torch.tensor([1.041234, 0.983705, 0.975061]).double(), rtol=0, atol=bounds.printed(6)
    )
    expected = [[0.744477, 0.179679, 0.075843], [0.162346, 0.431912, 0.405742], [0.090559, 0.389357, 0.520084]]
    torch.testing.assert_close(
        sinkhorn(of_text, 0.5, 3), torch.tensor(expected).double(), rtol=0, atol=bounds.printed(6)
    )
    expected = [[0.999816, 0.000184, 0], [0, 0.871803, 0.128197], [0, 0.167562, 0.832438]]
    torch.testing.assert_close(
        sinkhorn(of_text, 0.05, 3), torch.tensor(expected).double(), rtol=0, atol=bounds.printed(6)
    )


@pytest.mark.parametrize(("eps", "value"), [(0.5, 2.169305), (0.05, 0.658304)])
def test_the_losses_of_the_card(eps, value):
    assert call(ready({"eps": eps}), F3)[0].item() == pytest.approx(value, abs=bounds.printed(6))


def test_a_loose_assignment_is_even():
    objective = ready({"eps": 1e6}, F.normalize(torch.randn(5, 8, dtype=torch.float64)))
    value, features = call(objective, random_pairs(12))
    c = F.normalize(objective.prototype)
    logs = [(features[side] @ c.T / 0.1).log_softmax(1) for side in ("image", "text")]
    assert value.item() == pytest.approx(-(logs[0].mean() + logs[1].mean()).item() / 2, rel=bounds.bound(terms=512))


def test_gradients_flow_through_predictions_only():
    prototypes = F.normalize(torch.randn(4, 8, dtype=torch.float64))
    objective = ready({}, prototypes)
    value, features = call(objective, random_pairs(10))
    c = prototypes.clone().requires_grad_()
    scores = [features[side] @ F.normalize(c).T for side in ("text", "image")]
    q = [sinkhorn(score.detach(), 0.05, 3) for score in scores]
    loss = -sum((a * (b / 0.1).log_softmax(1)).sum(1).mean() for a, b in zip(q, scores[::-1])) / 2
    assert value.item() == pytest.approx(loss.item(), rel=1e-9)
    mine = torch.autograd.grad(value, (features["image"], features["text"], objective.prototype))
    for ours, other in zip(mine, torch.autograd.grad(loss, (features["image"], features["text"], c))):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-12)


def test_prototypes_stand_still_at_first():
    objective = ready({"freeze": 0.1})
    value, features = call(objective, F3, progress=0.05)
    of_prototypes, of_image = torch.autograd.grad(value, (objective.prototype, features["image"]))
    assert (of_prototypes == 0).all()
    assert of_image.abs().sum() > 0
    assert torch.autograd.grad(call(objective, F3, progress=0.1)[0], objective.prototype)[0].abs().sum() > 0


def test_the_length_of_prototypes_does_not_matter():
    values = [call(ready({}, PROTOTYPES * times), F3)[0].item() for times in (1.0, 7.0)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_views_tell_both_assignments():
    views = F.normalize(torch.randn(3, 2, 2, dtype=torch.float64), dim=2)
    value, features = call(ready({}, key="swav_views"), F3, views=views)
    sides = [features["image"], features["text"], *views.unbind(1)]
    logs = [(x @ PROTOTYPES.T / 0.1).log_softmax(1) for x in sides]
    q = [sinkhorn(x.detach() @ PROTOTYPES.T, 0.05, 3) for x in sides[:2]]
    losses = [-(q[a] * torch.stack([logs[b] for b in range(4) if b != a]).mean(0)).sum(1).mean() for a in (0, 1)]
    assert value.item() == pytest.approx(sum(losses).item() / 2, rel=1e-9)
    bare = call(ready({}, key="swav_views"), F3, views=views[:, :0])[0]
    assert bare.item() == pytest.approx(0.658304, abs=bounds.printed(6))


def test_the_queue_takes_part_in_the_assignment():
    objective = ready({"queue": 8})
    for seed in range(3):
        call(objective, random_pairs(3, D=2, seed=seed))
        objective.after_step()
    kept = objective.former.read(torch.arange(8))
    expected = torch.cat([torch.tensor(random_pairs(3, D=2, seed=s)[0]) for s in range(3)])
    order = [8, 1, 2, 3, 4, 5, 6, 7]  # sample n lies at n % 8
    torch.testing.assert_close(kept[:, :2], expected[order].float())
    value, features = call(objective, F3)
    rows = [
        torch.cat([features[side].detach(), kept[:, at : at + 2].double()]) for side, at in (("image", 0), ("text", 2))
    ]
    q = [sinkhorn(x @ PROTOTYPES.T, 0.05, 3)[:3] for x in rows]
    p = [(features[side] @ PROTOTYPES.T / 0.1).log_softmax(1) for side in ("image", "text")]
    assert value.item() == pytest.approx(
        -((q[0] * p[1] + q[1] * p[0]).sum(1).mean() / 2).item(), rel=bounds.bound(terms=16)
    )


def test_a_batch_larger_than_the_queue_leaves_its_end():
    objective = ready({"queue": 2})
    call(objective, F3)
    objective.after_step()
    assert objective.former.read(torch.arange(2))[:, :2].tolist() == [[0, 1], pytest.approx([0.6, 0.8])]


def with_queue(rows):
    objective = ready({"queue": 10})
    for seed in range(3):
        x = torch.tensor(random_pairs(rows, D=2, seed=seed)).double()
        own = {"image": parallel.own_rows(x[0]), "text": parallel.own_rows(x[1])}
        ones = torch.ones(rows // parallel.world(), dtype=torch.float64)
        value = objective(**own, weights=ones, progress=torch.tensor(0.5))
        objective.after_step()
    return value.detach(), objective.state_dict()


@pytest.mark.dist
def test_ranks_share_the_queue():
    expected, state = with_queue(8)
    for world in (2, 4):
        (value, kept), *others = run(world, with_queue, 8)
        assert all(other[0] == value for other in others)
        torch.testing.assert_close(value, expected, rtol=bounds.bound(terms=16), atol=0)
        torch.testing.assert_close(kept, state)


def test_a_prototype_that_is_near_to_all_gets_no_more():
    scores = torch.randn(9, 4, dtype=torch.float64)
    shifted = scores + torch.tensor([0.0, 1.0, -2.0, 0.5])
    torch.testing.assert_close(sinkhorn(shifted, 0.5, 1), sinkhorn(scores, 0.5, 1))
    torch.testing.assert_close(sinkhorn(shifted, 0.5, 3).sum(1), torch.ones(9).double())
    torch.testing.assert_close(sinkhorn(shifted, 0.5, 200).sum(0), torch.full((4,), 9 / 4).double(), rtol=1e-4, atol=0)
