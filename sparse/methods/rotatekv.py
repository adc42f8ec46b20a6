"""RotateKV (arXiv 2501.16383): channels in order and spread by a Hadamard transform, in 2 bits."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import OneOf, Tokens
from specdec.sparse.methods.coded import Coded

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.coded_view import CodedView

HEADS = 4  # whose channels are spread over each other, where their number divides by it
GROUP = 128  # channels that share a scale
CLIP = {2: 0.8, 4: 1.0, 8: 1.0}  # of the range of a group (its released settings)
BLOCK = 16  # ours: codes are of one token, so any will do


@dataclass(frozen=True)
class RotateKV(Coded):
    """Keys are taken before their rotation by position, and turned again when they are read.

    The paper protects the tokens with the greatest activations, which are the attention sinks;
    activations are not at hand where a cache is encoded, so the first tokens are protected, where
    sinks are (StreamingLLM's four). Its order of channels is of a calibration text, here of the
    text that is there first.
    """

    paper = "2501.16383"
    keeps = "every token in few bits, rotated"

    kv_bits: int = option(2, "Bits of keys and values.", OneOf(2, 4, 8))
    sink: int = option(4, "First tokens that are always read as they are.", Tokens())

    def view(self, target: Target) -> CodedView:
        from specdec.sparse.codecs.codec import TwoSides
        from specdec.sparse.codecs.grouped import CHANNELS, Grouped
        from specdec.sparse.codecs.rotated import Rotated
        from specdec.sparse.codecs.unturned import Unturned
        from specdec.sparse.maths.key_rotation import KeyRotation

        base = Grouped(self.kv_bits, GROUP, CHANNELS, CLIP[self.kv_bits])
        heads = gcd(HEADS, target.kv_shape.kv_heads)
        keys = Unturned(Rotated(base, heads, ordered=True), KeyRotation.of(target, "rotatekv"))
        values = Rotated(base, 1, ordered=False)
        return self.coded("rotatekv", target, TwoSides(keys, values, BLOCK), sink=self.sink)
