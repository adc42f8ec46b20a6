"""From a drafter's name to a drafter: draft models loaded and compared with the target."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from specdec.decoding.custom_drafter import CustomDrafter
from specdec.decoding.drafter import Drafter
from specdec.decoding.request import Request
from specdec.model.take_up import take_up
from specdec.model.target import Target
from specdec.sampling.vocabulary import check_same_ids

if TYPE_CHECKING:
    from specdec.loading.loader import Loaded


def make_drafter(target: Target, request: Request, draft: Target | None) -> Drafter:
    """The drafter that `request` names, for one call; `draft` is its draft model if it runs one."""
    if isinstance(request.drafter, str):
        return request.methods.make_drafter(target, draft)
    return CustomDrafter(request.drafter, target, {**request.options, "draft_model": draft})


@dataclass
class _Draft:
    """A loaded draft model, and the tokenizer that its ids were last compared with.

    given: what it was loaded from, kept alive so that its id stays its own.
    """

    given: Any
    loaded: Loaded
    compared: Any
    target: Target

    @property
    def is_named(self) -> bool:
        return isinstance(self.given, (str, PathLike))


class DraftModels:
    """Draft models of one target, each loaded and packed once. The target itself is not kept.

    Those known by name are kept as long as this is; of models that are handed over, the last one
    is, and one that comes again after another is prepared anew. Threads wait for each other.
    tokenizer: the target's, or None.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._drafts: dict[Any, _Draft] = {}
        self._lock = Lock()

    def get(self, model: Any, target: Target, tokenizer: Any = None) -> Target:
        """The draft model behind a name, path or loaded model, ready to run for `target`.

        tokenizer: another one to compare its ids with than the one known. Raises VocabularyMismatch
        if its token ids mean something else than the target's.
        """
        if isinstance(model, Target):
            return model
        with self._lock:
            return self._get(model, target, self.tokenizer if tokenizer is None else tokenizer)

    def _get(self, model: Any, target: Target, tokenizer: Any) -> Target:
        from specdec.loading.loader import load

        is_named = isinstance(model, (str, PathLike))
        key = str(model) if is_named else id(model), target.dtype, target.device
        known = self._drafts.get(key)
        if known is None:
            if not is_named:
                self._drafts = {k: draft for k, draft in self._drafts.items() if draft.is_named}
            is_single = target.dtype == torch.float32 and target.device.type == "cpu"
            kind = "auto" if is_single else target.dtype  # as stored, if it can
            loaded = load(model, dtype=kind, device=target.device)
            _compare(loaded, target, tokenizer)
            draft = take_up(loaded.model)
            known = self._drafts[key] = _Draft(model, loaded, tokenizer, draft)
        elif known.compared is not tokenizer:
            _compare(known.loaded, target, tokenizer)
            known.compared = tokenizer
        return known.target


def _compare(draft: Loaded, target: Target, tokenizer: Any) -> None:
    size = draft.model.config.get_text_config().vocab_size
    check_same_ids(tokenizer, draft.tokenizer, target.vocab_size, size, draft.source)
