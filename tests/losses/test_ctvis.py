"""ctvis: the card's memory and losses, first visits, noise, collisions and duplicates."""

import pytest
import torch
from torch.nn import functional as F

from mmclr.losses import Facts, build
from tests import bounds
from tests.losses.cards import F3, batch, evaluate, random_pairs


def ready(fields=None, samples=50, width=2):
    torch.manual_seed(0)
    objective = build("ctvis", {"noise": 0.0, "memory": 1.0, "key_by": "index", **(fields or {})})
    objective.setup(Facts(samples=samples, width=width))
    return objective


def call(objective, pairs, index=None, tau=0.5, **more):
    features = batch(pairs, tau, **more)
    features["index"] = torch.arange(len(features["image"])) if index is None else torch.as_tensor(index)
    return objective(**{name: features[name] for name in objective.needs}), features


def visit(objective, pairs, index=None, **more):
    call(objective, pairs, index, **more)
    objective.after_step()


def memory(objective, rows, width=2):
    """Return the image memories and the captions', [n, D] each, and how often they were visited."""
    found = objective.kept.read(torch.as_tensor(rows))
    return found[:, :width], found[:, width : 2 * width], found[:, -1]


def test_the_memory_of_the_card():
    """(1,0), (.6,.8), (0,1): shares .6 and .4; unit after every update."""
    objective = ready()
    other = ready()
    for e, visits in (((1, 0), 1), ((0.6, 0.8), 2), ((0, 1), 3)):
        visit(objective, ([e], [e]), [7])
        assert memory(objective, [7])[2].tolist() == [visits]
    for m in memory(objective, [7])[:2]:
        torch.testing.assert_close(m, torch.tensor([[0.575758, 0.817620]]), rtol=0, atol=bounds.printed(6))
    visit(other, ([(1, 0)], [(1, 0)]), [7])
    visit(other, ([(0.6, 0.8)], [(0.6, 0.8)]), [7])
    torch.testing.assert_close(
        memory(other, [7])[0], F.normalize(torch.tensor([[0.76, 0.48]])), rtol=0, atol=bounds.printed(6)
    )


def test_what_is_opposite_changes_nothing_and_what_is_equal_is_taken():
    objective = ready()
    visit(objective, ([(0.6, 0.8)], [(0.6, 0.8)]), [3])
    visit(objective, ([(-0.6, -0.8)], [(0.6, 0.8)]), [3])
    image, text, _ = memory(objective, [3])
    torch.testing.assert_close(image, torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(text, torch.tensor([[0.6, 0.8]]))


def test_the_loss_of_the_card():
    """Anchor (.8,.6) against the memory of the card, negatives (0,1) and (-.6,.8); with the squared errors."""
    m = F.normalize(torch.tensor([[0.456, 0.688]])).double()[0].tolist()
    columns = [m, (0, 1), (-0.6, 0.8)]
    objective = ready({"aux_weight": 1.0})
    visit(objective, (columns, columns))
    value, _ = call(objective, ([(0.8, 0.6), (0, 1), (-0.6, 0.8)], columns))
    pieces = []
    for x in (torch.tensor([(0.8, 0.6), (0, 1), (-0.6, 0.8)]).double(), torch.tensor(columns).double()):
        s = x @ torch.tensor(columns).double().T
        off = (2 * s).masked_fill(torch.eye(3).bool(), -torch.inf)
        pieces.append((F.softplus(off.logsumexp(1) - 2 * s.diagonal()), (s - torch.eye(3)).square().mean(1)))
    assert pieces[0][0][0].item() == pytest.approx(0.504679, abs=bounds.printed(6))
    assert pieces[0][1][0].item() == pytest.approx(0.121118, abs=bounds.printed(6))
    expected = sum((contrast + errors).mean() for contrast, errors in pieces) / 2
    assert value.item() == pytest.approx(expected.item(), rel=bounds.bound(terms=16))


@pytest.mark.parametrize("visited", [False, True])
def test_with_the_batch_for_its_memory_it_is_clip(visited):
    objective = ready()
    if visited:
        visit(objective, F3)
    value, _ = call(objective, F3)
    assert value.item() == pytest.approx(0.815062, abs=bounds.printed(6))


def test_the_first_visit_has_clips_gradient():
    value, features = call(ready(width=8), random_pairs(9))
    other = batch(random_pairs(9), 0.5)
    clip = build("clip", {})(**{name: other[name] for name in build("clip", {}).needs})
    for name in ("image", "text"):
        mine, theirs = (
            torch.autograd.grad(value, features[name], retain_graph=True),
            torch.autograd.grad(clip, other[name], retain_graph=True),
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_no_gradient_flows_into_memory():
    """With every row in memory and positives from there, the texts' columns are constants to the images."""
    objective = ready(width=8)
    visit(objective, random_pairs(6, seed=1))
    value, features = call(objective, random_pairs(6))
    _, text, _ = memory(objective, range(6), 8)
    logits = 2 * features["image"] @ text.double().T
    torch.testing.assert_close(
        torch.autograd.grad(value, features["image"])[0],
        torch.autograd.grad(F.cross_entropy(logits, torch.arange(6)) / 2, features["image"])[0],
        rtol=bounds.bound(terms=16),
        atol=1e-9,
    )


def test_a_share_of_positives_comes_from_memory():
    values = {}
    for share in (0.0, 0.5, 1.0):
        objective = ready({"memory": share}, width=8)
        visit(objective, random_pairs(30, seed=1))
        values[share] = call(objective, random_pairs(30))[0].item()
    assert len(set(values.values())) == 3


def test_equal_pictures_share_a_memory_and_are_no_negatives():
    objective = ready({"key_by": "image_id", "duplicates": "negative"})
    ids = torch.tensor([1 << 50, 1 << 50, 5])
    visit(objective, F3, image_id=ids)
    image, _, visits = memory(objective, ids % objective.rows)
    mean = F.normalize(torch.tensor([(0.8, 0.4)]))
    torch.testing.assert_close(
        image, torch.cat([mean, mean, torch.tensor([(0.0, 1.0)])]), rtol=0, atol=bounds.bound(terms=16)
    )
    assert visits.tolist() == [1, 1, 1]
    _, text, _ = memory(objective, ids % objective.rows)
    value, features = call(objective, F3, image_id=ids)
    x, y = features["image"].detach(), features["text"].detach()
    total = 0
    for a, m in ((x, text.double()), (y, image.double())):
        s = 2 * a @ m.T
        total += F.softplus(s.masked_fill(ids[:, None] == ids, -torch.inf).logsumexp(1) - s.diagonal()).mean()
    assert value.item() == pytest.approx(total.item() / 2, rel=bounds.bound(terms=16))


def test_a_newcomer_takes_the_row():
    """Keys 3 and 3 + rows collide: in one batch the higher wins, later the newer; the loser is unknown again."""
    objective = ready({"key_by": "image_id"})
    ids = torch.tensor([3, 3 + objective.rows, 4])
    visit(objective, F3, image_id=ids)
    assert objective.owner.read(torch.tensor([3, 4])).tolist() == [[ids[1]], [4]]
    visit(objective, F3, image_id=torch.tensor([3, 9, 4]))
    assert objective.owner.read(torch.tensor([3])).tolist() == [[3]]
    assert memory(objective, [3, 4])[2].tolist() == [1, 2]


def test_blank_rows_are_not_remembered():
    objective = ready()
    visit(objective, F3, [4, -1, 6])
    assert memory(objective, range(50))[2].nonzero()[:, 0].tolist() == [4, 6]


@pytest.mark.parametrize("spoil", ["other", "jitter"])
def test_noise_spoils_a_share_of_the_updates(spoil):
    clean, noisy = ready(width=8, samples=400), ready({"noise": 0.3, "spoil": spoil}, width=8, samples=400)
    visit(clean, random_pairs(400))
    visit(noisy, random_pairs(400))
    (image, _, _), (other, _, _) = (memory(o, range(400), 8) for o in (clean, noisy))
    torch.testing.assert_close(other.norm(dim=1), torch.ones(400))
    moved = (image - other).norm(dim=1)
    assert 0.2 < (moved > 1e-6).double().mean() < 0.4
    if spoil == "other":
        nearest = torch.cdist(other, image).min(1)
        assert nearest.values.max() < 1e-3  # each holds what was somebody's
    else:
        assert 0.02 < moved[moved > 1e-6].median() < 0.08


def test_a_second_run_is_the_same():
    values = []
    for _ in range(2):
        objective = ready({"noise": 0.2, "memory": 0.5}, width=8)
        visit(objective, random_pairs(20, seed=1))
        values.append(call(objective, random_pairs(20))[0].item())
    assert values[0] == values[1]
    assert evaluate("clip", random_pairs(20), 0.5).item() != values[0]
