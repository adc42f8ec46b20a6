"""PackedBlock: a LongSpec block in few calls, for a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from specdec.drafts.longspec.angles import Angles
from specdec.drafts.longspec.block import LongSpecBlock, Norm, packed
from specdec.drafts.longspec.rotary import Rotary
from specdec.kernels.linear import decoder_block as ops
from specdec.kernels.linear.decoder_run import Staging
from specdec.kernels.linear.draft_block import Attended, DraftBlock, draft_block

_PROBED = (3, 1000)  # positions
_CLOSE = 1e-3


class PackedBlock:
    """A packed block, whose step is one call.

    A draft token is little arithmetic, and entering a kernel costs as much as most of its matrices.
    """

    def __init__(self, block: LongSpecBlock, rotary: Rotary, head: nn.Linear) -> None:
        self._angles = Angles(rotary)
        norm, k, v = _norm(block.self_norm), packed(block.self_k), packed(block.self_v)
        dim, token, query_norm = block.sizes.head_dim, block.cross_token, block.cross_q_norm
        self._window = ops.AttentionInputs(norm, k, k, v, dim)  # keys again where nobody asks
        self._block = DraftBlock(
            packed(block.token_in),
            packed(block.before_in),
            tuple([packed(one) for one in block.state_in if isinstance(one, nn.Linear)]),
            ops.AttentionInputs(norm, packed(block.self_q), k, v, dim),
            packed(block.self_o),
            _norm(block.cross_norm),
            packed(block.cross_q),
            None if token is None else packed(token),
            _norm(query_norm) if isinstance(query_norm, Norm) else None,
            ops.LayerOutput(
                packed(block.cross_o),
                _norm(block.mlp_norm),
                packed(block.mlp_gate),
                packed(block.mlp_up),
                packed(block.mlp_down),
                "silu",
            ),
            packed(head),
        )

    @classmethod
    @torch.inference_mode()
    def of(cls, block: LongSpecBlock, rotary: Rotary, head: nn.Linear) -> PackedBlock | None:
        """A block whose matrices are packed; None where its ops are not those of the block.

        The ops turn heads by halves. Whether the target does so is tried, and not read off names.
        """
        sizes = block.sizes
        if not block.is_packed or sizes.value_dim != sizes.head_dim or not rotary.has_angles:
            return None
        made = cls(block, rotary, head)
        noise = torch.Generator().manual_seed(0)
        x = torch.randn(1, len(_PROBED), sizes.hidden_size, generator=noise)
        positions = torch.tensor([_PROBED])
        found, wanted = made.window_kv(x, positions), block.window_kv(x, rotary, positions)
        pairs = zip(found, wanted, strict=True)
        return made if all(torch.allclose(a, b, _CLOSE, _CLOSE) for a, b in pairs) else None

    def window_kv(self, embedded: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Self-attention's k and v `[B, Hkv, n, D]` of `embedded[B, n, hidden]` at
        `positions[B, n]`."""
        angles = self._angles.at(embedded, positions)
        _, k, v = ops.attention_inputs(embedded, self._window, *angles)
        return k, v

    def state(self, k: Tensor, v: Tensor, positions: Tensor) -> Tensor:
        """As the block's, `[1, 1, S]` of one token: cached `k, v[1, Hkv, 1, D]` side by side, the
        keys turned back."""
        cos, sin = (x[:, None].numpy() for x in self._angles.at(k, positions))
        keys, half = k.numpy(), cos.shape[-1] // 2
        low, high = keys[..., :half], keys[..., half : 2 * half]
        back = keys.copy()  # in NumPy, whose operations begin sooner
        back[..., :half] = low * cos[..., :half] + high * sin[..., :half]
        back[..., half : 2 * half] = high * cos[..., half:] - low * sin[..., half:]
        return torch.from_numpy(
            np.concatenate([x.swapaxes(1, 2).reshape(1, 1, -1) for x in (back, v.numpy())], 2)
        )

    def scores(
        self, x: Tensor, before: Tensor, state: Tensor, lags: Sequence[int], positions: Tensor,
        turned: Tensor, near: Attended, far: Attended, staging: Staging,
    ) -> Tensor:  # fmt: skip
        """Logits `[B, n, columns]`; keys and values are staged in the last level of `near`.

        x, before: `[B, n, hidden]`, embeddings of tokens and of those before them. state: `[B, S]`,
        `lags[b]` tokens back. positions, turned: `int64[B, n]` for self- and cross-attention.
        """
        own = self._angles.at(x, positions)
        cross = own if turned is positions else self._angles.at(x, turned)
        most = len(self._block.states)
        numbers = [min(lag, most) - 1 for lag in lags]
        made: Tensor = draft_block(
            x, before, state, self._block, numbers, own, cross, near, far, staging
        )
        return made


def _norm(norm: Norm) -> ops.Norm:
    assert norm.eps is not None
    return ops.Norm(norm.weight.detach(), norm.eps)
