"""The scattering transform: its coefficients by their definition, every sum written out in float64; what they keep."""

import numpy as np
import pytest
import torch

from mmclr.models.clip.scattering import Scattering
from mmclr.models.clip.wavelets import morlet, smoothing
from mmclr.models.config import ScatterConfig


def gabor(n, sigma, xi, theta, slant):
    """Return slant / (2 pi sigma^2) exp(-x^T C x + i xi x . direction), the sum of 5 x 5 copies n pixels apart."""
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    C = turn @ np.diag([1, slant**2]) @ turn.T / (2 * sigma**2)
    out = np.zeros((n, n), complex)
    for down in range(-2, 3):
        for right in range(-2, 3):
            x = np.stack(np.mgrid[:n, :n], -1) + n * np.array([down, right])
            wave = xi * (x @ np.array([np.cos(theta), np.sin(theta)]))
            out += np.exp(-np.einsum("...i,ij,...j", x, C, x) + 1j * wave)
    return out * slant / (2 * np.pi * sigma**2)


def wavelet(n, j, t, L):
    shape = {"sigma": 0.8 * 2**j, "theta": (int(L - L / 2 - 1) - t) * np.pi / L, "slant": 4 / L}
    wave, envelope = gabor(n, xi=3 * np.pi / 4 / 2**j, **shape), gabor(n, xi=0, **shape)
    return wave - wave.sum() / envelope.sum() * envelope


def convolve(x, filter):
    """Return the circular convolution of two [n, n], by its definition."""
    return sum(
        filter[down, right] * np.roll(x, (down, right), (0, 1)) for down in range(len(x)) for right in range(len(x))
    )


def coefficients(x, J, L):
    n = len(x)
    phi = gabor(n, 0.8 * 2 ** (J - 1), 0, 0, 1).real

    def smooth(u):
        return convolve(u, phi)[:: 2**J, :: 2**J]

    first, second = [], []
    for j in range(J):
        for t in range(L):
            u = abs(convolve(x, wavelet(n, j, t, L)))
            first.append(smooth(u))
            second += [smooth(abs(convolve(u, wavelet(n, k, s, L)))) for k in range(j + 1, J) for s in range(L)]
    return np.stack([smooth(x), *first, *second])


def scattered(x, J, L):
    return Scattering(x.shape[-1], J, L)(torch.as_tensor(x)[None, None])[0, 0].numpy()


@pytest.mark.parametrize(("J", "L"), [(2, 3), (3, 2)])
def test_coefficients_are_those_of_the_definition(J, L):
    """Up to the filters' float32, and to 3 parts in 10^5 that a filter's Fourier transform is not real at its ends."""
    x = np.random.default_rng(0).random((16, 16))
    np.testing.assert_allclose(scattered(x, J, L), coefficients(x, J, L), atol=3e-5, rtol=0)


def test_coefficients_are_those_that_were_published():
    """Of the image ((3 i + 5 j) mod 7) / 7, by kymatio's bank of filters without its sampling between the orders."""
    i, j = np.mgrid[:16, :16]
    out = scattered((3 * i + 5 * j) % 7 / 7, 2, 4)
    found = [out[0, 0, 0], out[0].mean(), out[1:9].mean(), out[9:].mean(), *out[1:9].mean((1, 2))]
    expected = [.399205, .426774, .050798, .004675,
                .075014, .080514, .111664, .079152, .025693, .019342, .007988, .007018]  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("J", "L", "paths"), [(1, 8, 9), (2, 8, 81), (2, 16, 289), (3, 8, 217)])
def test_how_many_coefficients_there_are(J, L, paths):
    assert ScatterConfig(J=J, L=L).paths == paths
    assert Scattering(32, J, L)(torch.ones(1, 1, 32, 32)).shape == (1, 1, paths, 32 >> J, 32 >> J)


def test_a_constant_image_is_its_mean_alone():
    out = scattered(np.full((16, 16), 2.0), 2, 4)
    np.testing.assert_allclose(out[0], 2, atol=1e-6)
    assert abs(out[1:]).max() < 1e-6


def test_what_moves_by_a_cell_moves_the_coefficients_by_one():
    """And a move by one pixel changes them much less than it changes the pixels."""
    x = np.random.default_rng(0).random((32, 32))
    out = scattered(x, 2, 4)
    np.testing.assert_allclose(scattered(np.roll(x, (4, 8), (0, 1)), 2, 4), np.roll(out, (1, 2), (1, 2)), atol=1e-12)
    moved, change = np.roll(x, 1, 0), scattered(np.roll(x, 1, 0), 2, 4) - out
    assert np.linalg.norm(change) / np.linalg.norm(out) < 0.5 * np.linalg.norm(moved - x) / np.linalg.norm(x)


def test_no_distance_grows():
    """As phi^2 + (psi^2 + mirrored psi^2) / 2 is at most 1 at every frequency, and near 1 at most of them."""
    psi = np.stack([morlet(16, j, t, 4) for j in range(2) for t in range(4)])
    mirrored = np.roll(psi[:, ::-1, ::-1], 1, (1, 2))
    column = np.fft.fft(gabor(16, 1.6, 0, 0, 1).real.sum(1)).real
    total = np.outer(column, column) ** 2 + (psi**2 + mirrored**2).sum(0) / 2
    assert 0.99 < total.max() < 1.0001
    draw = np.random.default_rng(0)
    for _ in range(5):
        x, y = draw.random((2, 16, 16))
        assert 0 < np.linalg.norm(scattered(x, 2, 4) - scattered(y, 2, 4)) <= np.linalg.norm(x - y)


def test_lowpass_is_separable():
    phi = gabor(16, 1.6, 0, 0, 1).real
    x = np.random.default_rng(0).random((16, 16))
    A = smoothing(16, 2)
    np.testing.assert_allclose(A @ x @ A.T, convolve(x, phi)[::4, ::4], atol=1e-12)
