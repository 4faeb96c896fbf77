"""The filters of a scattering transform: Morlet wavelets and a Gaussian, as kymatio has them.

Andreux et al., Kymatio: Scattering Transforms in Python, JMLR 2020, arXiv 1812.11214.
"""

from __future__ import annotations

import numpy as np


def envelopes(side: int, sigma: float, xi: float, theta: float, slant: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a Gabor filter and its Gaussian envelope, complex [side, side], periodised over 5 x 5 copies.

    g(x) = slant / (2 pi sigma^2) * exp(-x^T C x + i xi (x_0 cos theta + x_1 sin theta)), x_0 down, x_1 to the right,
    C = R diag(1, slant^2) R^T / (2 sigma^2), where R turns by theta; the envelope is the same with xi = 0.
    """
    x = np.arange(-2 * side, 3 * side, dtype=np.float64)
    cos, sin = np.cos(theta), np.sin(theta)
    along, across = x[:, None] * cos + x * sin, x * cos - x[:, None] * sin
    envelope = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2)) * slant / (2 * np.pi * sigma**2)
    both = (envelope * np.exp(1j * xi * along), envelope)
    gabor, plain = (filter.reshape(5, side, 5, side).sum((0, 2)) for filter in both)
    return gabor, plain


def morlet(side: int, j: int, t: int, L: int) -> np.ndarray:
    """Return the Fourier transform, real [side, side], of the Morlet wavelet of scale j and angle number t of L.

    psi = gabor - K envelope with the K that makes its sum zero; sigma = .8 2^j, slant = 4 / L, xi = (3 pi / 4) / 2^j,
    theta = (floor(L - L / 2 - 1) - t) pi / L.
    """
    theta = (int(L - L / 2 - 1) - t) * np.pi / L
    gabor, envelope = envelopes(side, 0.8 * 2**j, 0.75 * np.pi / 2**j, theta, 4 / L)
    psi = gabor - gabor.sum() / envelope.sum() * envelope
    spectrum: np.ndarray = np.fft.fft2(psi).real
    return spectrum


def smoothing(side: int, J: int) -> np.ndarray:
    """Return the matrix [side / 2^J, side] that convolves with one axis of phi and keeps every 2^J-th place.

    phi is the Gaussian of sigma = .8 2^(J - 1), slant 1, which is one of rows times one of columns.
    """
    sigma, x = 0.8 * 2 ** (J - 1), np.arange(-2 * side, 3 * side, dtype=np.float64)
    phi = (np.exp(-(x**2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)).reshape(5, side).sum(0)
    places = np.arange(0, side, 2**J)
    matrix: np.ndarray = phi[(places[:, None] - np.arange(side)) % side]
    return matrix
