"""A model's attention switched to ours, and all put back if that turns out to be no good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from specdec.forward import attention
from specdec.forward.model_settings import ModelSettings, of_text
from specdec.model import support
from specdec.model.packing import Packing
from specdec.model.turns import turn_of


def drive(model: PreTrainedModel) -> None:
    """Switch the model's attention to ours, in place.

    Raises UnsupportedModel for one that cannot be driven losslessly, which then is as it was.
    """
    support.check(model)
    with turn_of(model), undone_on_error(model):
        model.eval()
        attention.register()
        model.set_attn_implementation(of_text(model.config, attention.NAME))


@contextmanager
def undone_on_error(model: PreTrainedModel) -> Iterator[None]:
    """What is done to a model inside is undone if that raises: packed weights, fused forwards,
    attention, mode. What was so before, is let be."""
    before, was_packed = ModelSettings(model), Packing.on(model) is not None
    try:
        yield
    except BaseException:
        packing = Packing.on(model)
        if packing is not None and not was_packed:
            packing.restore()
        before.restore()
        raise
