"""Arrays into a loaded model: from files and from memory, one and many; what a model does not read is said."""

import numpy as np
import pytest
import torch

from mmclr.config import check
from mmclr.encoder import Encoder
from mmclr.errors import UserError
from mmclr.models.config import ModelConfig
from mmclr.models.two_tower import TwoTower
from tests.models.test_arrays import SIGNALS, TOWER
from tests.models.test_clip import SMALL


@pytest.fixture(scope="module")
def tokenizer():
    from mmclr.data.samples.text import Tokenizer

    return Tokenizer.train(["walking", "running"], size=600, context=12)


def encoder(tokenizer, image=None):
    torch.manual_seed(0)
    t = tokenizer
    text = {**SMALL["text"], "vocab": 600, "bos": t.bos_id, "eos": t.eos_id, "pad": t.pad_id}
    image = image or {**TOWER, "array": SIGNALS, "mean": [1, 2, 3], "std": [2, 2, 2]}
    return Encoder(TwoTower(check(ModelConfig, {**SMALL, "image": image, "text": text})), tokenizer, "cpu")


def series(steps, channels=3, seed=0):
    return np.random.default_rng(seed).normal(size=(steps, channels)).astype(np.float32)


def test_one_and_many_from_memory_and_from_files(tokenizer, tmp_path):
    made, arrays = encoder(tokenizer), [series(steps, seed=steps) for steps in (5, 12, 30)]
    paths = [tmp_path / f"{n}.npy" for n in range(3)]
    for path, x in zip(paths, arrays):
        np.save(path, x)
    found = made.encode_array(arrays)
    assert found.shape == (3, 24)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(made.encode_array(paths), found)
    for n, x in enumerate(arrays):
        for value in (x, torch.from_numpy(x), str(paths[n])):
            np.testing.assert_allclose(made.encode_array(value)[0], found[n], atol=1e-6)
    np.testing.assert_allclose(made.encode_array(np.stack([arrays[1]] * 2))[1], found[1], atol=1e-6)
    np.testing.assert_allclose(made.encode_array(arrays, batch=1), found, atol=1e-6)
    assert made.encode_array([]).shape == (0, 24)


def test_what_is_seen_is_normalised_and_cut(tokenizer):
    made, x = encoder(tokenizer), series(30)
    middle = (x[9:21] - np.array([1, 2, 3])) / 2
    with torch.no_grad():
        expected = made.model.encode_image(torch.from_numpy(middle.T[None].astype(np.float32)))
    np.testing.assert_allclose(made.encode_array(x), expected.numpy(), atol=1e-6)


def test_rows_of_a_table(tokenizer):
    made = encoder(tokenizer, {**TOWER, "array": {"channels": 4, "length": 1}})
    rows = series(6, 4)
    found = made.encode_array(rows)
    assert found.shape == (6, 24)
    np.testing.assert_allclose(made.encode_array(rows[2]), found[2:3], atol=1e-6)


def test_similarities_of_arrays(tokenizer):
    made, arrays = encoder(tokenizer), [series(12), series(5)]
    texts = ["walking", "running", "walking"]
    expected = made.encode_array(arrays) @ made.encode_text(texts).T
    np.testing.assert_allclose(made.similarity(arrays, texts), expected, atol=1e-6)


def test_what_it_does_not_read_is_said(tokenizer, tmp_path):
    made = encoder(tokenizer)
    with pytest.raises(UserError, match=r"array 1: an array \[5, 2\], and the model reads \[time, 3\]"):
        made.encode_array([series(5), series(5, 2)])
    with pytest.raises(UserError, match="array 0: nan at step 0"):
        made.encode_array([np.full((5, 3), np.nan)])
    (tmp_path / "broken.npy").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"array 0 \(.*broken.npy\): not a .npy file"):
        made.encode_array(tmp_path / "broken.npy")
    with pytest.raises(UserError, match="encode_image: this model takes arrays in place of images; use encode_array"):
        made.encode_image(torch.zeros(1, 3, 12))
    with pytest.raises(UserError, match="encode_array: this model takes images, and no arrays; use encode_image"):
        encoder(tokenizer, SMALL["image"]).encode_array([series(5)])
