"""From a drafter's name to a drafter: draft models loaded and compared with the target."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from typing import Any

import torch

from specdec.custom_drafter import CustomDrafter
from specdec.drafter import Drafter
from specdec.registry import COMBINED, DRAFTERS, drafter_names
from specdec.request import Request
from specdec.target import Target
from specdec.vocabulary import check_same_ids


def runs_draft_model(drafter: object) -> bool:
    """Whether `draft_model` is for a drafter that runs it as a causal LM.

    Otherwise it is a checkpoint in a format of the drafter's own, which loads it by itself.
    """
    if not isinstance(drafter, str):
        return True
    entries = [DRAFTERS[name] for name in drafter_names(drafter)]
    takers = [entry for entry in entries if entry.needs_model or entry.takes_model]
    return not takers or any(not entry.own_format for entry in takers)


def make_drafter(target: Target, request: Request, draft: Target | None) -> Drafter:
    """The drafter that `request` names, for one call; `draft` is its draft model if it runs one."""
    options = replace(request.options, draft_model=draft)
    if not isinstance(request.drafter, str):
        return CustomDrafter(request.drafter, target, options)
    own = None if runs_draft_model(request.drafter) else request.options.draft_model
    parts = []
    for name in drafter_names(request.drafter):
        entry = DRAFTERS[name]
        mine = replace(options, draft_model=own) if entry.own_format else options
        parts.append(entry.load()(target, mine))
    return parts[0] if len(parts) == 1 else COMBINED.load()(parts)


class DraftModels:
    """Draft models of one engine, each loaded once."""

    def __init__(self, target: Target, tokenizer: Any) -> None:
        self.target, self.tokenizer = target, tokenizer
        self._loaded: dict[Any, tuple[Any, Target]] = {}

    def get(self, model: Any) -> Target:
        """The draft model behind a name, path or loaded model, ready to run.

        Raises VocabularyMismatch if its token ids mean something else than the target's.
        """
        from specdec.loader import load

        if isinstance(model, Target):
            return model
        key = str(model) if isinstance(model, (str, PathLike)) else id(model)
        if key not in self._loaded:
            kind, place = self.target.dtype, self.target.device
            is_single = kind == torch.float32 and place.type == "cpu"  # then as stored, if it can
            loaded = load(model, dtype="auto" if is_single else kind, device=place)
            check_same_ids(
                self.tokenizer,
                loaded.tokenizer,
                self.target.vocab_size,
                loaded.model.config.get_text_config().vocab_size,
                loaded.source,
            )
            draft = Target(loaded.model)
            draft.pack(loaded.stored)
            self._loaded[key] = (
                model,
                draft,
            )  # keeps the model alive, so that its id stays its own
        return self._loaded[key][1]
