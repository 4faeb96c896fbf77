"""The captioning decoder: its packed form against a plain one, and generation against teacher forcing."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from mmclr.config import ConfigError, check
from mmclr.errors import UserError
from mmclr.models.captioning.decoding import Decoding
from mmclr.models.captioning.generate import Writer, log_probabilities, to_generate
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower, with_tokenizer
from tests import bounds

N, BOS, EOS = 24, 22, 23
TREE = {
    "embed": 12,
    "image": {"size": 24, "patch": 8, "width": 20, "layers": 2, "heads": 2, "mlp": 24},
    "text": {"context": 14, "width": 16, "layers": 2, "heads": 2, "mlp": 24, "vocab": N, "bos": BOS, "eos": EOS,
             "pad": EOS},
}  # fmt: skip
KINDS = pytest.mark.parametrize(("queries", "tied"), [(0, True), (3, False)])


def make(queries=0, tied=True, seed=3, loud=True):
    """A model; `loud` makes its random captions depend on image and place, and end at different ones."""
    torch.manual_seed(seed)
    model = TwoTower(check(ModelConfig, {**TREE, "captioner": {"layers": 2, "queries": queries, "tied": tied}}))
    if loud:
        model.words().data.mul_(40)
        model.words().data[EOS] *= 3
        model.text_model.embeddings.position_embedding.weight.data.mul_(300)
        for layer in model.captioner.layers:
            layer.cross_attn.out_proj.weight.data.mul_(10)
    return model.eval()


def texts(n, seed=0, L=9):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, L + 1, (n,), generator=g)
    tokens = torch.randint(0, BOS, (n, L), generator=g)
    tokens[:, 0] = BOS
    tokens[torch.arange(n), lengths - 1] = EOS
    return tokens, lengths


def pictures(b, seed=0):
    return torch.randn(b, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


def plain(model, pixels, tokens):
    """The decoder written out over padded rows: states at all tokens but the last."""
    decoder, read = model.captioner, model.text_model.tokens(tokens)[:, :-1]
    seen = decoder.memory(model.vision_model.tokens(pixels))
    seen = seen.repeat_interleave(len(tokens) // len(pixels), 0)
    for layer in decoder.layers:
        read = layer.block(read, causal=True)
        read = read + layer.cross_attn(layer.layer_norm1(read), seen)
        read = read + layer.mlp(layer.layer_norm2(read))
    return decoder.final_layer_norm(read)


@KINDS
@pytest.mark.parametrize("captions", [1, 3])
def test_packed_equals_padded_in_value_and_gradient(queries, tied, captions):
    model = make(queries, tied, loud=False).double()
    pixels, (tokens, lengths) = pictures(5).double(), texts(5 * captions)
    image, text, states = model.encode_pairs(pixels, tokens, lengths)
    torch.testing.assert_close(image, model.encode_image(pixels), atol=1e-12, rtol=0)
    torch.testing.assert_close(text, model.encode_text(tokens, lengths), atol=1e-12, rtol=0)
    followed = torch.arange(1, tokens.shape[1]) < lengths[:, None]
    expected = plain(model, pixels, tokens)
    torch.testing.assert_close(states[followed], expected[followed], atol=1e-12, rtol=0)
    assert states[~followed].abs().max() == 0
    weights = torch.randn(expected.shape, dtype=torch.float64)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad((states * weights)[followed].sum(), parameters, allow_unused=True, retain_graph=True),
        torch.autograd.grad((expected * weights)[followed].sum(), parameters, allow_unused=True),
    ):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-9)


def test_what_depends_on_what():
    """States see the image and the past; embeddings never see the decoder; captions do not see their padding."""
    model = make()
    pixels, (tokens, lengths) = pictures(3), texts(3)
    lengths[:] = 9
    image, text, states = model.encode_pairs(pixels, tokens, lengths)
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % BOS
    later = model.encode_pairs(pixels, changed, lengths)[2]
    torch.testing.assert_close(later[:, :5], states[:, :5])
    assert (later[:, 5:] - states[:, 5:]).abs().amin(2).max() > 1e-3
    other = model.encode_pairs(pixels.flip(0), tokens, lengths)
    torch.testing.assert_close(other[1], text)
    assert (other[2] - states).abs().amax() > 1e-2
    for embedding in (image, text):
        found = torch.autograd.grad(
            embedding.sum(), list(model.captioner.parameters()), allow_unused=True, retain_graph=True
        )
        assert all(g is None for g in found)
    short = model.encode_pairs(pixels, tokens[:, :6], torch.tensor([6, 6, 6]))[2]
    torch.testing.assert_close(model.encode_pairs(pixels, tokens, torch.tensor([6, 6, 6]))[2][:, :5], short)


@KINDS
def test_log_probabilities_are_those_of_the_model_that_generates(queries, tied):
    model = make(queries, tied)
    pixels, (tokens, lengths) = pictures(4), texts(4)
    with torch.no_grad():
        logits = to_generate(model)(pixel_values=pixels, decoder_input_ids=tokens).logits
    expected = logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    followed = torch.arange(1, tokens.shape[1]) < lengths[:, None]
    found = log_probabilities(model, pixels, tokens, lengths)
    torch.testing.assert_close(
        found[followed], expected[followed], atol=bounds.bound(terms=512), rtol=bounds.bound(terms=512)
    )
    assert found[~followed].abs().max() == 0


@KINDS
@pytest.mark.parametrize("seed", range(3))
def test_the_cache_changes_nothing(queries, tied, seed):
    peer, pixels = to_generate(make(queries, tied, seed)), pictures(6, seed)
    for how in ({}, {"num_beams": 3}):
        cached, anew = (
            peer.generate(pixel_values=pixels, max_length=14, use_cache=use, **how) for use in (True, False)
        )
        assert torch.equal(cached, anew)
    rows = peer.generate(pixel_values=pixels, max_length=14).tolist()
    assert len({row.index(EOS) if EOS in row else len(row) for row in rows}) > 1, "captions that are too much alike"


def test_keys_of_the_picture_are_computed_once():
    peer, counts = to_generate(make()), []
    cross = peer.captioner.layers[0].cross_attn.k_proj
    cross.register_forward_hook(lambda *_: counts.append(1))
    peer.generate(pixel_values=pictures(2), max_new_tokens=10, min_new_tokens=10)
    assert len(counts) == 1


@KINDS
def test_scores_equal_teacher_forcing(queries, tied):
    """The tokens that greedy decoding takes, with their logits, and the sum of a beam."""
    model = make(queries, tied, loud=False)
    peer, pixels = to_generate(model), pictures(5)
    out = peer.generate(pixel_values=pixels, max_length=14, return_dict_in_generate=True, output_logits=True)
    with torch.no_grad():
        forced = peer(pixel_values=pixels, decoder_input_ids=out.sequences).logits[:, :-1]
    torch.testing.assert_close(torch.stack(out.logits, 1), forced, atol=bounds.bound(terms=512), rtol=0)
    beam = peer.generate(
        pixel_values=pixels,
        max_length=14,
        num_beams=4,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    rows = beam.sequences
    ends = [row.index(EOS, 1) + 1 if EOS in row[1:] else len(row) for row in rows.tolist()]
    told = log_probabilities(model, pixels, F.pad(rows, (0, 1), value=EOS), torch.tensor(ends))
    torch.testing.assert_close(told.sum(1), beam.sequences_scores, atol=bounds.bound(terms=512), rtol=0)


def test_width_one_and_the_batch_change_nothing():
    write, pixels = Writer(make()), pictures(7)
    greedy = write(pixels)
    assert write(pixels, Decoding(beams=1)) == greedy
    assert write(pixels.flip(0)) == greedy[::-1]
    assert [write(p[None])[0] for p in pixels] == greedy
    beams = write(pixels, Decoding(beams=4))
    assert [write(p[None], Decoding(beams=4))[0] for p in pixels] == beams


def test_more_beams_find_likelier_captions():
    model = make()
    pixels, write = pictures(16), Writer(model)
    per_token = []
    for beams in (1, 6):
        rows = [[BOS, *ids, EOS] for ids in write(pixels, Decoding(beams=beams, max_tokens=6))]
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.tensor([row + [EOS] * (14 - len(row)) for row in rows])
        per_token.append((log_probabilities(model, pixels, tokens, lengths).sum(1) / (lengths - 1)).mean())
    assert per_token[1] > per_token[0]


def test_lengths_are_kept():
    write, pixels = Writer(make()), pictures(12)
    free = [len(ids) for ids in write(pixels)]
    assert min(free) < 4
    assert max(free) <= 12
    assert min(len(ids) for ids in write(pixels, Decoding(min_tokens=4))) >= 4
    assert max(len(ids) for ids in write(pixels, Decoding(max_tokens=2))) <= 2
    assert all(EOS not in ids for ids in write(pixels))


def test_draws_depend_on_the_seed_alone():
    write, pixels = Writer(make()), pictures(6)
    one, two = (write(pixels, Decoding(top_p=0.95, temperature=2.0, seed=s)) for s in (1, 2))
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert write(pixels, Decoding(top_p=0.95, temperature=2.0, seed=1)) == one
    assert one != two
    assert torch.equal(before, torch.random.get_rng_state())
    assert write(pixels, Decoding(top_p=1e-6)) == write(pixels)  # the likeliest alone


def test_it_is_saved_beside_the_encoders(tmp_path):
    model = make(3, False)
    model.save(tmp_path)
    again = TwoTower.load(tmp_path)
    assert again.config == model.config
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    bare = model.encoders()
    assert bare.captioner is None
    assert model.captioner is not None
    assert bare.visual_projection is model.visual_projection
    assert bare.config == dataclasses.replace(model.config, captioner=None)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="this model has no captioner"):
        Writer(make().encoders())
    foreign = {"source": "", "pool": "cls", "architecture": {"model_type": "dinov2"}}
    with pytest.raises(ConfigError, match="tokens of our own towers only"):
        check(ModelConfig, {**TREE, "image": {**TREE["image"], "foreign": foreign}, "captioner": {}})
    with pytest.raises(ConfigError, match="no start token"):
        with_tokenizer(make().config, N, -1, EOS, EOS)
    with pytest.raises(ConfigError, match="min_tokens 3 is more than max_tokens 2"):
        check(Decoding, {"min_tokens": 3, "max_tokens": 2})
    with pytest.raises(ConfigError, match="set one of the two"):
        check(Decoding, {"beams": 2, "top_p": 0.9})
