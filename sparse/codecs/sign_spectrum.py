"""SignSpectrum: one bit a number, of its channels' spectrum (VidKV, arXiv 2503.16257)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from specdec.kernels.cache import codes
from specdec.kernels.precision import wide
from specdec.sparse.codecs.base import Parts, Place


@dataclass(frozen=True)
class SignSpectrum:
    """x is about F^-1(sign(F x) * s): F the Fourier transform over a token's n channels as n real
    numbers, s the mean of |F x| over the tokens of a block, for each of the n.

    The n numbers are the real parts of the transform of real numbers, and its imaginary parts but
    for those that are always 0: the paper has real and imaginary parts beside each other, and does
    not say that half of them repeat.
    """

    def learn(self, x: Tensor, at: Place) -> None:
        return None

    def encode(self, x: Tensor, at: Place, learned: None) -> Parts:
        """Packed signs `uint8[Hkv, P, S, ceil(n / 8)]`, and scales `[Hkv, P, n]`."""
        made = spectrum(wide(x))
        signs = pad((made >= 0).to(torch.uint8), (0, -made.shape[-1] % 8))
        return codes.pack(signs, 1), made.abs().mean(-2).to(x.dtype)

    def decode(self, parts: Parts, at: Place, learned: None) -> Tensor:
        packed, scale = parts
        signs = codes.unpack(packed, 1)[..., : scale.shape[-1]]
        wider = wide(scale)
        return from_spectrum((2.0 * signs.to(wider) - 1) * wider[..., None, :]).to(scale.dtype)


def spectrum(x: Tensor) -> Tensor:
    """The Fourier transform of `x[..., n]` as n real numbers."""
    found = torch.fft.rfft(x, norm="ortho")
    n = x.shape[-1]
    return torch.cat([found.real, found.imag[..., 1 : (n + 1) // 2]], dim=-1)


def from_spectrum(made: Tensor) -> Tensor:
    """The inverse of `spectrum`."""
    n = made.shape[-1]
    real, imag = made.split([n // 2 + 1, n - n // 2 - 1], dim=-1)
    whole = torch.zeros_like(real)
    whole[..., 1 : (n + 1) // 2] = imag
    return torch.fft.irfft(torch.complex(real, whole), n=n, norm="ortho")
