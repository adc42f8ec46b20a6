"""LongSpec: a trained block that reads the target's own KV proposes a chain or a tree."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.block import LongSpecBlock, pack_linear
from specdec.drafts.longspec.checkpoint import SHIPPED as FOLDER
from specdec.drafts.longspec.checkpoint import Checkpoint, check_config
from specdec.drafts.longspec.head_rows import head_rows
from specdec.drafts.longspec.model import LongSpecModel
from specdec.drafts.longspec.packed_block import PackedBlock
from specdec.drafts.longspec.prepared import Prepared
from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.methods.longspec import LongSpecOptions
from specdec.drafts.model import ModelDrafter
from specdec.errors import InvalidArgument
from specdec.method import DrafterMethod
from specdec.model.target import Target
from specdec.sampling.sequence import Row

SHIPPED = FOLDER / "longspec-demo"


_faults: WeakKeyDictionary[PreTrainedModel, dict[Path, str | None]] = WeakKeyDictionary()
_prepared: WeakKeyDictionary[PreTrainedModel, dict[Any, Prepared]] = WeakKeyDictionary()


def prepared(target: Target, source: Any) -> Prepared:
    """As `prepare`, but kept for as long as the target's model lives."""
    known = _prepared.setdefault(target.model, {})
    key = _key(target, source)
    if key not in known:
        known[key] = prepare(target, source)
    return known[key]


def _key(target: Target, source: Any) -> tuple[Any, ...]:
    return str(source), target.dtype, target.device


def prepare(target: Target, source: Any) -> Prepared:
    """The checkpoint `source` (folder or hub id; None: the shipped one), made ready for `target`.

    Raises as `load` does.
    """
    checkpoint = load(target, source, SHIPPED)
    return fitted(target, checkpoint.block(), checkpoint.ids)


def load(target: Target, source: Any, shipped: Path) -> Checkpoint:
    """The checkpoint `source`, or the one that is `shipped`, checked against `target`.

    Raises InvalidArgument for another target's checkpoint, naming the difference, and
    WeightsError for one that cannot be read.
    """
    if source is not None and not isinstance(source, (str, Path)):
        raise InvalidArgument(
            f"draft_model is a {type(source).__name__}: this drafter takes a folder or hub "
            "id of a checkpoint that `specdec train-drafter` has made"
        )
    if source is None:
        check_shipped(target, shipped)
    checkpoint = Checkpoint.load(shipped if source is None else source)
    checkpoint.check(target, str(source))
    return checkpoint


def check_shipped(target: Target, shipped: Path) -> None:
    """As `Checkpoint.check` of what ships, without its weights; looked at once for each model."""
    known = _faults.setdefault(target.model, {})
    if shipped not in known:
        try:
            check_config(shipped, target, "that ships with specdec")
            known[shipped] = None
        except InvalidArgument as error:
            known[shipped] = f"{error} and give it as draft_model=PATH"
    if (fault := known[shipped]) is not None:
        raise InvalidArgument(fault)


@torch.no_grad()
def fitted(target: Target, block: LongSpecBlock, ids: Tensor | None) -> Prepared:
    """A block on the target's device and in its dtype, with its rows of the head; `block` moves."""
    block = block.to(target.device, target.dtype)
    ids = None if ids is None else ids.to(target.device)
    every = torch.arange(target.vocab_size, device=target.device) if ids is None else ids
    rows = head_rows(target, every)
    head = nn.Linear(rows.shape[1], len(rows), bias=False, device="meta")
    head.weight = nn.Parameter(rows, requires_grad=False)
    block.pack()
    pack_linear(head)
    rotary = Rotary(target, block.sizes.kv_layer)
    return Prepared(block, rotary, head, ids, PackedBlock.of(block, rotary, head))


class LongSpec(ModelDrafter):
    """Drafts with a block trained by `specdec train-drafter` (LongSpec, arXiv 2502.17421).

    Its cross-attention reads the keys and values that the target has cached in one layer, so its
    own memory does not grow with the context. Without `draft_model` it takes the checkpoint that
    ships with specdec, which fits the demo model only; its weights are read when a row joins.
    """

    name = "longspec"
    Options: ClassVar[type[DrafterMethod]] = LongSpecOptions
    chain_prob = 0.35  # measured: docs/decisions/drafts.md

    def __init__(self, target: Target, options: LongSpecOptions) -> None:
        self._source = options.draft_model
        self.start(target, target, options)
        if self._source is None:
            check_shipped(target, SHIPPED)
            self.is_cold = _key(target, None) not in _prepared.get(target.model, {})
        else:
            assert self.prepared

    @cached_property
    def prepared(self) -> Prepared:
        """The block; its weights are read, unless they were for this target."""
        given = self._source
        return given if isinstance(given, Prepared) else prepared(self.draft, given)

    def open(self, rows: Sequence[Row], verifier: CachedModel) -> LongSpecModel:
        parts = self.prepared
        return LongSpecModel(self.draft, parts, verifier)
