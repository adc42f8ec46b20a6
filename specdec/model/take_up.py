"""take_up: a loaded model made ready to be a target or a draft model."""

from __future__ import annotations

import logging

from transformers import PreTrainedModel

from specdec.forward.attention import NAME
from specdec.kernels.cpu.registers import TILE_HEIGHTS
from specdec.model import support
from specdec.model.driving import undone_on_error
from specdec.model.fused_head import FusedHead
from specdec.model.packing import Packing
from specdec.model.probes import chain, compare
from specdec.model.target import Target
from specdec.model.turns import turn_of
from specdec.progress import compiling_line

log = logging.getLogger("specdec")


def take_up(model: PreTrainedModel, *, is_packed: bool = True) -> Target:
    """The model as a target: its attention is ours, and on a CPU it is laid out for fast passes.

    Kernels that were never compiled on this machine are compiled now. Raises UnsupportedModel for a
    model that cannot be driven losslessly, or whose logits are not those of transformers' own
    attention; it is then as it was.
    """
    support.check(model)
    with turn_of(model), undone_on_error(model):
        model.eval()
        attends_by = model.config.get_text_config()._attn_implementation
        known = support.is_tested(model) or attends_by == NAME
        stock = None if known else support.stock_logits(model)
        target = Target(model)
        if stock is not None:
            compare(target, stock)
        if is_packed:
            pack(target)
    return target


def pack(target: Target) -> None:
    """Pack the target's model, fuse what can be fused, and compile what they run: see `Packing`."""
    with turn_of(target.model), compiling_line():
        target.packing = packing = Packing.of(target.model)
        packing.fuse(target, lambda probe: chain(target, observers=[probe]))
        if packing.linears:
            _compile(target, packing)
    log.info("weights: %s", str(packing))  # who keeps records is not to keep the model


def _compile(target: Target, packing: Packing) -> None:
    """Run every kernel of a pass once for every height of its tiles, and fuse the head."""
    for nodes in TILE_HEIGHTS:
        tokens, pass_ = chain(target, range(nodes))
        logits = target.forward([tokens], pass_)
        if target.head is None:
            target.head = FusedHead.of(packing, target.inputs([tokens], pass_), logits)
        if target.head is not None:
            target.choose([tokens], pass_)
