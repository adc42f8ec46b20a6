"""Experts: a file has the matrices of all in one tensor, transformers gate and up in one, too."""

from __future__ import annotations

from typing import Any

import numpy as np

from specdec.loading.gguf.blueprint import Array, Source
from specdec.loading.gguf.contents import Contents

_SOFTMAX = 1  # by llama.cpp's number


def expect_softmax(c: Contents, is_normed: bool = True) -> None:
    """Raise UnsupportedModel for another way to weigh experts than the usual one."""
    c.expect("expert_gating_func", 0, _SOFTMAX)
    c.expect("expert_weights_scale", 0.0, 1.0)
    c.expect("expert_weights_norm", is_normed)
    c.expect("expert_shared_count", 0)
    c.expect("expert_group_count", 0, 1)
    c.expect("expert_group_used_count", 0, 1)


def table(c: Contents, count: int) -> dict[str, Any]:
    """Entries for `mlp.experts`. Old files have a tensor for each expert, which are stacked."""

    def names(block: str, which: str) -> tuple[str, ...]:
        one = f"{block}ffn_{which}_exps.weight"
        each = tuple(f"{block}ffn_{which}.{i}.weight" for i in range(count))
        return each if not c.has(one) and c.has(each[0]) else (one,)

    def gate_up(block: str) -> Source:
        gate, up = names(block, "gate"), names(block, "up")
        return Source(
            (*gate, *up),
            make=lambda *x: np.concatenate([_joined(x[: len(gate)]), _joined(x[len(gate) :])], 1),
            experts=(gate, up),
        )

    def down(block: str) -> Source:
        down = names(block, "down")
        return Source(down, make=lambda *x: _joined(x), experts=(down,))

    return {"mlp.experts.gate_up_proj": gate_up, "mlp.experts.down_proj": down}


def _joined(parts: tuple[Array, ...]) -> Array:
    return parts[0] if parts[0].ndim == 3 else np.stack(parts)
