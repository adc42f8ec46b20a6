"""Probes: a few tokens run through a model to see whether it gives what it should."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.errors import UnsupportedModel
from specdec.forward.attention import NoPass
from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.forward.observer import Observer, SeenPass
from specdec.model import support
from specdec.model.target import Target
from specdec.sampling.tree import ancestor_words


def compare(target: Target, stock: Tensor) -> None:
    """Raise UnsupportedModel unless our attention gives `support.stock_logits(model)` too."""
    tokens = support.probe(target.model)[0].tolist()
    positions = torch.arange(len(tokens), device=target.device)[None]
    windows, name = _Windows(), type(target.model).__name__
    store = target.new_store(1, len(tokens))
    pass_ = ForwardPass(store, FullView(), [0], positions, observers=[windows])
    try:
        logits = target.forward([tokens], pass_)
    except NoPass as error:
        raise UnsupportedModel(
            f"{name} does not hand on what its attention is called with, so ours cannot be driven "
            "through it"
        ) from error
    support.compare(logits, stock, name)
    support.check_windows(target.model.config.get_text_config(), windows.told, name)


def chain(
    target: Target, at: Sequence[int] | None = None, observers: Sequence[Observer] = ()
) -> tuple[list[int], ForwardPass]:
    """A chain of tokens at some positions, and a pass over it; by default a few from first to last,
    to compare."""
    if at is None:
        change, most = target.rotation.first_change, target.max_positions
        last = min(most, change or most, 1 << 16) - 1
        at = sorted({0, 1, last // 3, last})
    nodes = len(at)
    positions = torch.tensor([list(at)])
    pass_ = ForwardPass(
        target.new_store(1, nodes),
        FullView(),
        [0],
        positions,
        anc=ancestor_words([list(range(-1, nodes - 1))], nodes),
        staged_positions=positions,
        observers=observers,
        layers=target.num_layers,
    )
    return [token % target.vocab_size for token in range(nodes)], pass_


class _Windows:
    """Notes the window that each layer asks for: an `Observer`."""

    def __init__(self) -> None:
        self.told: dict[int, int | None] = {}

    def see(self, call: AttentionCall, pass_: SeenPass) -> None:
        self.told[call.layer] = call.window
