"""Convolution: learned mixtures of neighbouring tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.specvlm.branches.base import Branch
from specdec.drafts.specvlm.image import Entries, Image, ImageSizes, groups, means


class Convolution(Branch):
    """A strided convolution over the tokens of an image (SpecVLM, arXiv 2509.11815).

    x_t: key (turned back to no place) and value of token t, all heads side by side, width C, and
    its embedding (of unit variance), width E.
    y_e = b + sum_j W_j x_{s e + j}, j = 0 .. s - 1, W_j `[C, C + E]`, stride and kernel s.
    It begins as the mean of keys and values: W_j = [I / s, 0], b = 0.

    Departures: over tokens in reading order and not over a plane, since tiles and rows of images
    differ from model to model; and an image of more than s times as many tokens as entries is
    averaged down to that first, so that entries, and memory, are as many for every size. The paper
    finds strides up to 5 good, and 10 worse.
    """

    is_trained = True

    def __init__(self, sizes: ImageSizes) -> None:
        super().__init__(sizes)
        own, stride = sizes.width, sizes.stride
        self.mix = nn.Linear(stride * (own + sizes.hidden_size), own)
        with torch.no_grad():
            start = torch.eye(own, own + sizes.hidden_size)
            self.mix.weight.copy_(start.repeat(1, stride) / stride)
            self.mix.bias.zero_()

    def forward(self, image: Image, tokens: int, rotary: Rotary) -> Entries:
        """At most `tokens` mixtures; the last one sees the last token again where it lacks some."""
        stride = self.sizes.stride
        fine = groups(image.k.shape[2], tokens * stride)
        x = means(image.inputs(rotary, self.sizes).to(self.mix.weight.dtype), fine)
        lacking = -len(fine) % stride
        x = torch.cat([x, x[:, -1:].expand(-1, lacking, -1)], 1)
        y: Tensor = self.mix(x.unflatten(1, (-1, stride)).flatten(2))
        sizes = torch.nn.functional.pad(fine, (0, lacking)).view(-1, stride).sum(1)
        return image.made(y, sizes, rotary)
