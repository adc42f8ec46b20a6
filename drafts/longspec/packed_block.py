"""PackedBlock: a LongSpec block in few calls, for a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.drafts.longspec.block import LongSpecBlock, Norm, packed
from specdec.drafts.longspec.rotary import Rotary
from specdec.kernels.linear import decoder_block as ops

_PROBED = (3, 1000)  # positions
_CLOSE = 1e-3


class PackedBlock:
    """Both ends of a packed block by the ops of a decoder layer.

    A draft token is little arithmetic, and entering a kernel costs as much as most of its matrices:
    so self-attention's inputs are one call, and everything behind cross-attention another.
    """

    def __init__(self, block: LongSpecBlock, rotary: Rotary) -> None:
        self._rotary = rotary
        self._inputs = ops.AttentionInputs(
            _norm(block.self_norm),
            packed(block.self_q),
            packed(block.self_k),
            packed(block.self_v),
            block.sizes.head_dim,
        )
        self._output = ops.LayerOutput(
            packed(block.cross_o),
            _norm(block.mlp_norm),
            packed(block.mlp_gate),
            packed(block.mlp_up),
            packed(block.mlp_down),
            "silu",
        )

    @classmethod
    @torch.inference_mode()
    def of(cls, block: LongSpecBlock, rotary: Rotary) -> PackedBlock | None:
        """A block whose matrices are packed; None where its ops are not those of the block.

        The ops turn heads by halves. Whether the target does so is tried, and not read off names.
        """
        sizes = block.sizes
        if not block.is_packed or sizes.value_dim != sizes.head_dim or not rotary.has_angles:
            return None
        made = cls(block, rotary)
        noise = torch.Generator().manual_seed(0)
        x = torch.randn(1, len(_PROBED), sizes.hidden_size, generator=noise)
        positions = torch.tensor([_PROBED])
        q = block.self_query(x, rotary, positions)
        wanted = (q, *block.window_kv(x, rotary, positions))
        found = made.inputs(x, positions)
        pairs = zip(found, wanted, strict=True)
        return made if all(torch.allclose(a, b, _CLOSE, _CLOSE) for a, b in pairs) else None

    def inputs(self, embedded: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Self-attention's q `[B, H, n, D]`, k and v `[B, Hkv, n, D]` of `embedded[B, n, hidden]`
        at `positions[B, n]`."""
        cos, sin = self._rotary.angles(embedded, positions)
        made: tuple[Tensor, Tensor, Tensor] = ops.attention_inputs(embedded, self._inputs, cos, sin)
        return made

    def output(self, h: Tensor, attended: Tensor) -> Tensor:
        """What the target's LM head is given, from h and cross-attention's `[B, H, n, D]`."""
        made: Tensor = ops.layer_output(h, attended, self._output)
        return made


def _norm(norm: Norm) -> ops.Norm:
    assert norm.eps is not None
    return ops.Norm(norm.weight.detach(), norm.eps)
