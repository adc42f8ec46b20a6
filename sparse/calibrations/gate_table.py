"""gate_table: trained gates of heads, as DuoAttention's authors ship them."""

from __future__ import annotations

from pathlib import Path

from specdec.errors import InvalidArgument
from specdec.model.target import Target
from specdec.sparse.calibrations.calibration import Calibration
from specdec.sparse.fingerprint import fingerprint


def read_gates(path: str | Path, target: Target) -> Calibration:
    """A .tsv file with a line for each layer and a number for each KV head.

    It does not name its model: that it has as many layers and heads is all that can be checked.
    Raises InvalidArgument for another shape, or what cannot be read.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
        gates = [[float(x) for x in line.split()] for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"calibration={str(path)!r} is no table of gates ({error}): give 'auto' or a file of "
            "`specdec calibrate duo`"
        ) from error
    heads = target.kv_shape.kv_heads
    if len(gates) != target.num_layers or any(len(line) != heads for line in gates):
        raise InvalidArgument(
            f"calibration: {path} was made for another model: it has {len(gates)} layers of "
            f"{len(gates[0]) if gates else 0} heads, and this one {target.num_layers} of {heads}"
        )
    kinds = target.layer_types
    layers = tuple(
        None if kinds[n] == "sliding_attention" else {"gate": line} for n, line in enumerate(gates)
    )
    return Calibration("duo", fingerprint(target), str(path), layers)
