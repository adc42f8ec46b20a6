"""Candidates: the drafters among which `auto` chooses, and how each of them does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from specdec.control.acceptance import Trust
from specdec.control.draft_length import FAR_DEPTH
from specdec.decoding.asking import Asking
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Traits
from specdec.drafts.methods.auto import AutoOptions
from specdec.errors import InvalidArgument, UnsupportedModel, WeightsError
from specdec.forward.query_recorder import QueryRecorder
from specdec.model.target import Target
from specdec.offload.kv_memory import KVMemory
from specdec.registry import DRAFTERS
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

log = logging.getLogger("specdec")

MAX_DEPTH = 12  # draft tokens of a drafter that runs a model; the controller asks for less
# In the order in which they are asked. Those that need nothing but the target are left alone until
# they can be expected to pay; a drafter that needs a model takes part where `draft_model` is given,
# and one with a format of its own where what it ships fits the target.
CANDIDATES = ("ngram", "model", "triforce-chunks", "longspec", "specvlm")
# Who drafts behind images alone, and who leaves these texts to them: the other saw none while it
# learned, and what it does there would be held against it elsewhere.
SEEING, BLIND = ("specvlm",), ("longspec",)
NEAR = ("triforce-chunks",)  # what has its better among those of FAR
# Where keys and values lie in slower memory, those besides that draft best there (measured in
# docs/decisions/offload.md), told to fetch little.
FAR: dict[str, dict[str, Any]] = {
    "snapkv": {},
    "shadowkv": {"refresh": "round", "key_share": 1.0},
}


@dataclass
class Part:
    """One candidate, whether the user brought it, how it does, and how far it read each row.

    is_far: it takes part only where some of the text's KV lies in slower memory; is_near: only
    where none does. is_open: whether it meets rows as they join; one with weights of its own that
    nobody brought meets them when it is first asked, since that takes its time.
    """

    drafter: Asking
    traits: Traits
    given: bool = False
    is_far: bool = False
    is_near: bool = False
    is_open: bool = True
    trust: Trust = field(default_factory=Trust)
    read: dict[int, int] = field(default_factory=dict)
    trees: list[TokenTree] = field(default_factory=list)  # this round's


def candidates(target: Target, options: AutoOptions, ships: bool = False) -> Iterator[Part]:
    """The drafters that this call has something for.

    ships: those with weights that ship with specdec, which are made later, if at all; else the
    others.
    Those of `FAR` are left out where no KV can be elsewhere, and where that depends on the text
    those that want to see all passes, which would slow it down where it is near.
    """
    given = {name: getattr(options, name) for name in options.options()}
    memory = target.kv_memory
    tier = memory.tier if isinstance(memory, KVMemory) else "device"
    far, deepest = ((), MAX_DEPTH) if tier == "device" else (FAR, FAR_DEPTH)
    for name in (*CANDIDATES, *far):
        kind, mine = DRAFTERS[name].load(), {**given, **FAR.get(name, {})}
        if kind.own_format is not ships or (kind.needs_model and options.draft_model is None):
            continue
        mine["num_draft_tokens"] = None if name == "ngram" else given["num_draft_tokens"] or deepest
        if kind.own_format:
            mine["draft_model"] = None
        try:
            drafter = DRAFTERS[name].method(mine).drafter(target)
        except (InvalidArgument, WeightsError, UnsupportedModel) as error:
            is_asked = not kind.own_format and name not in FAR
            if is_asked and not isinstance(error, UnsupportedModel):
                raise
            log.debug("auto does without %s: %s", name, error)
            continue
        if name in FAR and tier == "auto" and QueryRecorder.of(drafter.needs) is not None:
            continue
        assert drafter.traits is not None, name
        yield Part(
            Asking(drafter), drafter.traits, kind.needs_model, name in FAR, name in NEAR,
            not kind.own_format,
        )  # fmt: skip


def fits(part: Part, parts: Sequence[Part], rows: Sequence[Row]) -> bool:
    """Whether a candidate is one for such texts, with images or without."""
    sees = any(row.content is not None and row.content.spans for row in rows)
    if part.drafter.name in SEEING:
        return sees
    has_better = any(other.drafter.name in SEEING for other in parts)
    return not (sees and has_better and part.drafter.name in BLIND)


def joins(part: Part, rows: Sequence[Row], verifier: CachedModel) -> bool:
    """Whether a candidate that nobody asked for can work here: it may need KV that is elsewhere,
    or be of no use where it is near."""
    if part.is_near if verifier.store.places else part.is_far:
        return False
    try:
        part.drafter.join(rows, verifier)
    except (InvalidArgument, WeightsError) as error:
        if part.given:
            raise
        log.debug("auto does without %s: %s", part.drafter.name, error)
        return False
    return True
