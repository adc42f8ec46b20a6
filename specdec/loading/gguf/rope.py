"""rope_of: how a GGUF rotates its keys and queries, as transformers' `rope_parameters`.

llama.cpp divides a frequency by a factor of its own (`rope_freqs`, `rope_factors_*`) and by the
scaling factor. transformers' kind with a factor for every frequency is "longrope"; so that is what
a table becomes, also that of Llama 3, with equal factors at any length.
"""

from __future__ import annotations

import math
from typing import Any

from specdec.errors import WeightsError
from specdec.loading.gguf.contents import Contents

_FREQS, _LONG, _SHORT = (
    f"{name}.weight" for name in ("rope_freqs", "rope_factors_long", "rope_factors_short")
)


def rope_of(c: Contents, dim: int, context: int, tables: bool = False) -> dict[str, Any]:
    """The parameters for `dim` rotated numbers of a head. tables: whether factors may be tensors.

    Raises UnsupportedModel for scaling that transformers cannot express, WeightsError for tensors
    that are missing or have another length.
    """
    theta = {"rope_theta": c.positive("rope.freq_base", 10000.0)}
    kind = c.key("rope.scaling.type") or "linear"
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise c.refusal("rope.scaling.type", "only none, linear, yarn and longrope are known")
    factor = _factor(c, kind)
    amplitude = c.real("rope.scaling.attn_factor", 1.0)
    original = c.integer("rope.scaling.original_context_length", context)
    found = _tables(c, kind, dim, context, original) if tables else None
    if kind == "yarn":
        if found:
            raise c.refusal("rope.scaling.type", "it is not supported beside tensors of factors")
        return {**theta, **_yarn(c, factor, amplitude, original)}
    if kind == "longrope" and not found:
        raise WeightsError(f"{c.file.path} has RoPE of kind longrope and lacks {_LONG}")
    if not found and amplitude != 1.0:
        found = ([1.0] * (dim // 2), [1.0] * (dim // 2), context)
    if found:
        short, long, boundary = found
        return {
            **theta,
            "rope_type": "longrope",
            "short_factor": [x * factor for x in short],
            "long_factor": [x * factor for x in long],
            "attention_factor": amplitude,
            "factor": context / boundary,
            "original_max_position_embeddings": boundary,
        }
    if factor != 1.0:
        return {**theta, "rope_type": "linear", "factor": factor}
    return {**theta, "rope_type": "default"}


def _factor(c: Contents, kind: str) -> float:
    """How much longer texts become; the older of the two names counts where the newer is absent."""
    old = c.real("rope.scale_linear", 0.0)
    factor = c.real("rope.scaling.factor", old)
    if factor < 0:
        raise c.refusal("rope.scaling.factor", "it must not be negative")
    return factor if factor and kind != "none" else 1.0


def _yarn(c: Contents, factor: float, amplitude: float, original: int) -> dict[str, Any]:
    c.expect("rope.scaling.yarn_ext_factor", 1.0, -1.0)
    c.expect("rope.scaling.yarn_attn_factor", 1.0)
    c.expect("rope.scaling.yarn_log_multiplier", 0.0)
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "beta_fast": c.real("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": c.real("rope.scaling.yarn_beta_slow", 1.0),
        "attention_factor": amplitude * (1.0 + 0.1 * math.log(factor) if factor > 1.0 else 1.0),
    }


def _tables(
    c: Contents, kind: str, dim: int, context: int, original: int
) -> tuple[list[float], list[float], int] | None:
    """Factors up to a boundary, factors beyond it, and the boundary; None without tensors."""
    if kind != "longrope" and c.has(_FREQS):
        names, boundary = (_FREQS, _FREQS), context
    elif c.has(_SHORT) or c.has(_LONG):
        names, boundary = (_SHORT, _LONG), original
    else:
        return None
    short, long = (c.numbers(name) for name in names)
    for name, factors in zip(names, (short, long), strict=True):
        if len(factors) != dim // 2 or not all(0 < x < math.inf for x in factors):
            raise WeightsError(
                f"{c.file.path}: {name} must hold {dim // 2} positive numbers for this model"
            )
    return short, long, boundary
