"""A wavelet scattering transform of two orders.

Bruna and Mallat, Invariant Scattering Convolution Networks, IEEE TPAMI 2013, arXiv 1203.1513.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mmclr.models.clip.wavelets import morlet, smoothing


class Scattering(nn.Module):
    """The scattering coefficients of orders 0, 1 and 2 of images of one size, which go on at the other side.

    S0 = x * phi; S1[j, t] = |x * psi_{j,t}| * phi; S2[j, t, j', t'] = ||x * psi_{j,t}| * psi_{j',t'}| * phi, j' > j;
    all at every 2^J-th place, in this order: 1 + L J + L^2 J (J - 1) / 2 channels a colour. Nothing is left out between
    the orders. Always in float32 or wider, whatever the model computes in; the filters are made anew from the sizes,
    stand in no checkpoint and do not learn.
    """

    wavelets: Tensor  # [J, L, side, side], of which the Fourier transform is real
    lowpass: Tensor  # [side / 2^J, side]

    def __init__(self, side: int, J: int, L: int) -> None:
        super().__init__()
        self.scales = J
        wavelets = np.stack([np.stack([morlet(side, j, t, L) for t in range(L)]) for j in range(J)])
        for name, values in (("wavelets", wavelets), ("lowpass", smoothing(side, J))):
            self.register_buffer(name, torch.from_numpy(values.astype(np.float32)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images [b, C, side, side] -> coefficients [b, C, K, side / 2^J, side / 2^J], in float32 at least."""
        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            return self._orders(x)

    def _orders(self, x: Tensor) -> Tensor:
        spectrum = _spectrum(x[:, :, None])
        first, second = [], []
        for j in range(self.scales):
            u = _filtered(spectrum, self.wavelets[j])  # [b, C, L, side, side]
            first.append(self._smooth(u))
            if j + 1 == self.scales:
                continue
            again = _spectrum(u)
            for t in range(u.shape[2]):  # of one angle at a time: all at once would be L times as large
                one = again[:, :, t : t + 1]
                second += [self._smooth(_filtered(one, psi)) for psi in self.wavelets[j + 1 :]]
        return torch.cat([self._smooth(x[:, :, None]), *first, *second], 2)

    def _smooth(self, u: Tensor) -> Tensor:
        lowpass = self.lowpass.to(u.dtype)
        return lowpass @ u @ lowpass.T


def _spectrum(x: Tensor) -> Tensor:
    """Return the Fourier transform of [..., n, n] as pairs of real numbers [..., n, n, 2], which ONNX can multiply."""
    return torch.view_as_real(torch.fft.fft2(x))


def _filtered(spectrum: Tensor, psi: Tensor) -> Tensor:
    """Return |x * psi| of the Fourier transforms of x, pairs [..., n, n, 2], and of psi, real [L, n, n]."""
    return torch.fft.ifft2(torch.view_as_complex(spectrum * psi[..., None])).abs()
