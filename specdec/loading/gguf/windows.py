"""layer_types: which layers of a file see a window of the text only."""

from __future__ import annotations

from specdec.loading.gguf.contents import Contents

_PATTERN = "attention.sliding_window_pattern"


def layer_types(c: Contents, layers: int, period: int) -> list[str]:
    """transformers' names, layer by layer. period: every so-manieth sees all, by default; none
    does where it is 0.

    The file may give another period, or say it for each layer.
    """
    value = c.key(_PATTERN)
    if value is None or (type(value) is int and value >= 0):
        period = period if value is None else value
        windows = [period == 0 or i % period < period - 1 for i in range(layers)]
    elif isinstance(value, list) and len(value) == layers:
        windows = [bool(entry) for entry in value]
    else:
        raise c.refusal(_PATTERN, f"it must be a period, or say it for each of {layers} layers")
    return ["sliding_attention" if x else "full_attention" for x in windows]
