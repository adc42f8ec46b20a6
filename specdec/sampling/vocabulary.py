"""Vocabularies: whether two models mean the same by their token ids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specdec.errors import VocabularyMismatch


def check_same_ids(
    target: Any, draft: Any, target_size: int, draft_size: int, draft_name: str
) -> None:
    """Raise VocabularyMismatch unless `draft` reads and writes the target's token ids.

    Compares the tokenizers' tables, not their sizes: a draft model may have more ids (padding) or
    lack some at the end that the target's tokenizer never produces. `target` and `draft` are
    tokenizers or None; without both of them the draft's size must be at least the target's.
    """
    if target is None or draft is None:
        if draft_size < target_size:
            raise VocabularyMismatch(
                f"draft model {draft_name} has {draft_size} token ids, the target {target_size}, "
                "and without tokenizers they cannot be compared: use one of the same family"
            )
        return
    ours, theirs = target.get_vocab(), draft.get_vocab()
    differ = [
        f"{token!r} is {ours[token]} and {theirs[token]}"
        for token in ours.keys() & theirs.keys()
        if ours[token] != theirs[token]
    ]
    only = sorted(ours.keys() - theirs.keys(), key=lambda token: int(ours[token]))
    if differ or only:
        examples = "; ".join([*differ[:3], *(f"{t!r} is unknown to it" for t in only[:3])])
        raise VocabularyMismatch(
            f"draft model {draft_name} does not share the target's token ids: {len(differ)} tokens "
            f"have another id and {len(only)} are missing ({examples}). Use a draft model "
            "with the same tokenizer, or drafter='ngram'"
        )
    highest = max(ours.values(), default=-1)
    if highest >= draft_size:
        raise VocabularyMismatch(
            f"draft model {draft_name} has {draft_size} token ids, but the target's tokenizer goes "
            f"up to {highest}"
        )


def fit(logits: Tensor, size: int) -> Tensor:
    """Draft logits `[..., V']` over a target vocabulary of `size`: extra ids are cut off, and
    missing ones get no probability, so that they are never drafted."""
    missing = size - logits.shape[-1]
    if missing > 0:
        return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf)
    return logits[..., :size]


def spread(logits: Tensor, ids: Tensor | None, size: int) -> Tensor:
    """Logits `[..., size]` of all tokens, from those of the tokens `ids` alone: the others get no
    probability. None: of all tokens of a draft model, which `fit`."""
    if ids is None:
        return fit(logits, size)
    full = logits.new_full((*logits.shape[:-1], size), -torch.inf)
    full[..., ids] = logits
    return full
