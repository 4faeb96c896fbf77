"""Attention for varying lengths in one kernel. The kernel is CUDA's: here it is played by plain attention."""

import math
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmclr.models.activation_checkpointing import recompute
from mmclr.models.clip import varlen
from tests import bounds
from tests.models.test_clip import batch, small

CPU = torch.device("cpu")


def written_out(q, k, v, begins, _, longest, __, window_size):
    """What varlen_attn is said to do, a sequence and a head at a time."""
    assert begins.dtype == torch.int32
    assert int(begins.diff().max()) == longest
    out = torch.empty_like(q)
    for a, b in zip(begins.tolist(), begins.tolist()[1:]):
        for head in range(q.shape[1]):
            logits = q[a:b, head] @ k[a:b, head].T / math.sqrt(q.shape[2])
            if window_size == (-1, 0):
                logits = logits.masked_fill(torch.ones_like(logits).triu(1).bool(), -math.inf)
            out[a:b, head] = logits.softmax(-1) @ v[a:b, head]
    return out


@pytest.fixture
def kernel(monkeypatch):
    """Let a function stand for the kernel, and forget what was found out about another one."""

    def put(function):
        varlen.agrees.cache_clear()
        monkeypatch.setattr(varlen, "kernel", lambda: function)

    yield put
    varlen.agrees.cache_clear()


def features(model, tokens, lengths):
    model.zero_grad()
    text = model.text_model(tokens, lengths)
    text.cos().sum().backward()
    return [text.detach(), *(p.grad.clone() for p in model.text_model.parameters())]


def test_the_tower_is_the_same_through_the_kernel(kernel, monkeypatch):
    """Offsets, the longest, heads and causality are handed over as the kernel wants them."""
    model = small().double()
    _, tokens, lengths = batch()
    plain = features(model, tokens, lengths)
    calls = []
    kernel(lambda *args, **kwargs: calls.append(1) or written_out(*args, **kwargs))
    monkeypatch.setattr(varlen, "usable", lambda q, heads: True)
    for a, b in zip(features(model, tokens, lengths), plain):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)
    assert len(calls) == len(model.text_model.encoder.layers) - 1  # the last block pools


def test_a_right_kernel_is_used(kernel):
    kernel(written_out)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert varlen.agrees(CPU, torch.bfloat16, 16)
        with torch.inference_mode():
            assert varlen.agrees(CPU, torch.float16, 8)


class Backward(torch.autograd.Function):
    """Right values, and a gradient for k that is a tenth too large."""

    @staticmethod
    def forward(ctx, k):
        return k.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 1.1 * gradient


def fails(*_, **__):
    raise RuntimeError("no kernel image is available\nfor this card")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda *args, window_size: written_out(*args, window_size=(-1, -1)), "wrong by"),
        (lambda q, k, *rest, **named: written_out(q, Backward.apply(k), *rest, **named), "wrong by 1e-01"),
        (lambda *args, **named: written_out(*args, **named) * math.nan, "wrong by nan"),
        (fails, r"it failed \(no kernel image is available\)"),
        (lambda *args: None, "it failed .*window_size"),
    ],
)
def test_a_wrong_kernel_is_not_used_and_that_is_said(kernel, wrong, said):
    kernel(wrong)
    with pytest.warns(UserWarning, match=said):
        assert not varlen.agrees(CPU, torch.bfloat16, 16)


@pytest.mark.parametrize(
    ("dtype", "width", "card", "right"),
    [
        (torch.bfloat16, 64, (8, 0), True),
        (torch.float16, 256, (9, 0), True),
        (torch.float32, 64, (8, 0), False),  # flash attention has no float32
        (torch.bfloat16, 64, (7, 5), False),
        (torch.bfloat16, 12, (8, 0), False),  # 24 bytes a head: not aligned
        (torch.bfloat16, 264, (8, 0), False),
    ],
)
def test_what_the_kernel_can_do(dtype, width, card, right, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: card)
    monkeypatch.setattr(varlen, "agrees", lambda *what: True)
    monkeypatch.setattr(varlen, "kernel", lambda: written_out)
    with FakeTensorMode():
        q = torch.empty(10, 2 * width, dtype=dtype, device="cuda")
        assert varlen.usable(q, 2) == right
        assert not varlen.usable(torch.empty(10, 2 * width, dtype=dtype), 2)


def test_torch_takes_these_arguments():
    """Torch's own operator and its backward, on tensors without memory."""
    pytest.importorskip("torch.nn.attention.varlen")
    with torch.device("meta"):
        q, k, v = torch.empty(10, 3 * 64, dtype=torch.bfloat16, requires_grad=True).chunk(3, -1)
        q, k, v = (x.unflatten(-1, (2, 32)) for x in (q, k, v))
        out = varlen.attend(q, k, v, torch.empty(4, dtype=torch.int32), 5)
    assert (out.shape, out.dtype) == (q.shape, q.dtype)
    assert all(g.shape == q.shape for g in torch.autograd.grad(out.sum(), (q, k, v)))


@pytest.mark.gpu
def test_on_a_gpu():
    """In bf16 the kernel is as near to float32 as groups by length are."""
    model = small().cuda()
    _, tokens, lengths = (x.cuda() for x in batch())
    exact = features(model, tokens, lengths)
    with torch.autocast("cuda", torch.bfloat16):
        assert varlen.agrees(tokens.device, torch.bfloat16, 8)
        half = features(model, tokens, lengths)
    for a, b in zip(half, exact):
        assert (a - b).norm() <= 0.05 * b.norm() + 1e-3


def test_a_block_that_is_recomputed_may_be_the_first_to_try_the_kernel(kernel, monkeypatch):
    """What the trial saves for its own backward is none of what the block saves."""
    model = small()
    _, tokens, lengths = batch()
    plain = features(model, tokens, lengths)
    kernel(written_out)
    monkeypatch.setattr(varlen, "usable", lambda q, heads: varlen.agrees(CPU, torch.bfloat16, 8))
    recompute(model)
    exact = features(model.double(), tokens, lengths)
    model.float()
    for a, b, true in zip(features(model, tokens, lengths), plain, exact):
        lost = (b.double() - true).abs().max().item()  # by the plain tower, in float32
        terms, size = tokens.numel(), max(1.0, true.abs().max().item())
        assert (a.double() - true).abs().max() <= bounds.SAFETY * lost + bounds.bound(terms=terms, size=size)
