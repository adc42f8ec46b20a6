"""Whether every op's kernel gives what its plain twin gives, judged by the twin's own error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from specdec.bench.kernels.cases import CASES, Inputs


def check(kind: str, device: str, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """For each op with a version of this kind: its error and the plain twin's, against float64.

    `ok` if no float is further off than twice the twin's worst plus one rounding of the inputs'
    type, of what is finite, and every integer is the twin's.
    """
    for name, case in CASES[kind].items():
        inputs = Inputs(device, dtype, False)
        got = _outputs(case(inputs, lambda op: getattr(op, kind)))
        rounding = torch.finfo(inputs.coarsest).eps  # kernels round weights to the values' type
        plain = _outputs(case(Inputs(device, dtype, False), lambda op: op.plain))
        exact = _outputs(case(Inputs(device, dtype, True), lambda op: op.plain))
        error = own = 0.0
        ok = True
        for ours, twin, truth in zip(got, plain, exact, strict=True):
            if not truth.is_floating_point():
                ok &= torch.equal(ours.cpu(), twin.cpu())
                continue
            known = truth.isfinite()
            ok &= torch.equal(ours.isfinite(), known)
            off, near = ((x.double() - truth)[known].abs().amax().item() for x in (ours, twin))
            size = max(1.0, truth[known].abs().amax().item())
            ok &= off <= 2 * near + rounding * size
            error, own = max(error, off), max(own, near)
        yield {"op": name, "error": error, "plain_error": own, "ok": bool(ok)}


def _outputs(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)
