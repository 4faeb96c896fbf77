"""The laws of providers: they are found, say what they give, and give it for each sample alone."""

import pytest
import torch
from safetensors.torch import load, save

from mmclr import parallel, vocabulary
from mmclr.features.provider import catalogue
from mmclr.laws.tolerance import close
from mmclr.train import gradient_cache
from tests import bounds
from tests.laws import providers
from tests.laws.providers import SETTINGS, keys, make_step
from tests.ranks import run
from tests.train.test_accumulate import make_batch, plain, with_blanks

CASES = [(key, fields) for key in keys() for fields in [{}, *SETTINGS.get(key, [])]]
every_case = pytest.mark.parametrize(
    ("key", "fields"), CASES, ids=[f"{key}{''.join(f',{n}={v}' for n, v in fields.items())}" for key, fields in CASES]
)


@pytest.fixture(autouse=True)
def _defined():
    providers.define()
    yield
    providers.forget()


def batch_of(blanks=()):
    batch = make_batch()
    batch = with_blanks(batch, blanks) if blanks else batch
    batch.weights = batch.weights.double()
    return batch


def take(step, blanks=(), size=0):
    """Return loss, terms and gradients of one step, whole or in micro-batches."""
    batch = batch_of(blanks)
    torch.manual_seed(5)
    if size:
        loss, terms = gradient_cache.backward(plain(step), batch, 0.3, size, lambda: torch.manual_seed(5))
    else:
        loss, terms = step(batch, 0.3)
        loss.backward()
    return loss.detach(), terms, {name: p.grad for name, p in step.named_parameters() if p.requires_grad}


def agree(found, expected):
    for mine, theirs in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(mine, theirs, **bounds.near())
    for name, gradient in expected[2].items():
        assert (gradient is None) == (found[2][name] is None), name
        if gradient is not None:
            torch.testing.assert_close(found[2][name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_they_are_found_by_walking():
    assert {"ema", "frozen", "student", "test_pool"} <= catalogue().keys()


@every_case
def test_it_gives_rows_of_the_vocabulary_as_they_are_described(key, fields, tmp_path):
    """Exactly those that are wanted, of the shape's rank, with a gradient where the row says so."""
    step, batch = make_step(key, fields, tmp_path), batch_of()
    provides = step.providers[key].provides
    own = vocabulary.names(provider=key)
    assert own & provides, f"no row of the vocabulary has the provider {key}"
    assert provides <= own | (vocabulary.names(provider="frozen") if key == "student" else set())
    for names in (provides, {sorted(provides)[0]}):
        found = step.features(batch, 0.3, names)
        assert found.keys() == names
        for name, x in found.items():
            row = vocabulary.FEATURES[name]
            assert x.dim() == (0 if row.shape == "[]" else row.shape.count(",") + 1), name
            assert not row.per_sample or len(x) == len(batch.weights), name
            assert x.requires_grad == row.gradient, name
            assert torch.isfinite(x).all(), name


@every_case
def test_micro_batches_equal_the_whole(key, fields, tmp_path):
    """Loss and terms, and the gradient of every weight: no sample's features depend on the others."""
    agree(take(make_step(key, fields, tmp_path), size=3), take(make_step(key, fields, tmp_path)))


@every_case
@pytest.mark.parametrize("size", [0, 4])
def test_blank_rows_change_nothing(key, fields, size, tmp_path):
    blanks = (0, 3, 4, 5, 13)
    agree(take(make_step(key, fields, tmp_path), blanks, size), take(make_step(key, fields, tmp_path)))


@every_case
def test_every_weight_that_trains_gets_a_gradient(key, fields, tmp_path):
    """DDP would wait for it."""
    _, _, gradients = take(make_step(key, fields, tmp_path))
    lacking = {name for name, gradient in gradients.items() if gradient is None}
    assert lacking <= {"providers.student.model.logit_bias"}  # which a run has only where an objective asks for it


@every_case
def test_its_state_is_saved_and_restored(key, fields, tmp_path):
    """What a step has changed lies in the state, all of it: another of other weights goes on from there, to the bit."""
    step = make_step(key, fields, tmp_path)
    for number in range(2):
        take(step)
        with torch.no_grad():
            for p in step.parameters():
                p += 0.01 * (number + 1) * torch.sin(torch.arange(p.numel())).view_as(p)
        step.after_step()
    other = make_step(key, fields, tmp_path, seed=1)
    names = step.providers[key].provides
    torch.manual_seed(5)
    mine = step.features(batch_of(), 0.3, names)
    other.load_state_dict(load(save({name: x.contiguous() for name, x in step.state_dict().items()})))
    torch.manual_seed(5)
    theirs = other.features(batch_of(), 0.3, names)
    assert all(torch.equal(mine[name], theirs[name]) for name in names)


@every_case
def test_asking_for_more_changes_nothing(key, fields, tmp_path):
    """A feature is the same whoever else is asked for."""
    step, batch = make_step(key, fields, tmp_path), batch_of()
    names = step.providers[key].provides - {"caption_states"}  # one pass gives all, rounded otherwise
    torch.manual_seed(5)
    together = step.features(batch, 0.3, names)
    for name in names:
        torch.manual_seed(5)
        torch.testing.assert_close(step.features(batch, 0.3, {name})[name], together[name], **bounds.near())


def under_ddp(key, fields, folder):
    """Return the averaged gradients of two steps under DDP on this rank's half of a batch."""
    providers.define()
    step = make_step(key, fields, folder)
    if "bias" not in step.wanted:
        step.providers["student"].model.logit_bias.requires_grad_(False)  # which a run has only where it is asked for
    wrapped = torch.nn.parallel.DistributedDataParallel(step)
    batch = batch_of()
    half = len(batch.weights) // 2
    for _ in range(2):  # DDP says in the second what had no gradient in the first
        step.zero_grad()
        torch.manual_seed(5)
        part = batch.split(half)[parallel.rank()]
        wrapped(part, 0.3)[0].backward()
    providers.forget()
    return {name: p.grad for name, p in step.named_parameters() if p.grad is not None}


@pytest.mark.dist
@pytest.mark.parametrize(("key", "fields"), [case for case in CASES if case[0] not in ("ema", "frozen")])
def test_ranks_share_a_batch(key, fields, tmp_path):
    """The mean of the ranks' gradients is that of the whole batch, and DDP waits for no weight."""
    _, _, expected = take(make_step(key, fields, tmp_path))
    for found in run(2, under_ddp, key, fields, str(tmp_path)):
        for name, gradient in found.items():
            assert close(gradient, expected[name], 1e-6), name  # shares are float32
