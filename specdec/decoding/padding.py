"""Padding of token ids: cut off by an attention mask, or refused where no mask tells it apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specdec.errors import InvalidArgument
from specdec.plain import plain


def unpadded(ids: Any, mask: Any, place: int) -> list[Any]:
    """The tokens of a row that its mask keeps; they must be one run of them."""
    if not isinstance(ids, Sequence) or not isinstance(mask, Sequence) or len(mask) != len(ids):
        raise InvalidArgument(f"attention_mask of prompt {place} has not the length of its ids")
    keeps = [plain(keep) for keep in mask]
    if not all(isinstance(keep, (bool, int, float)) and keep in (0, 1) for keep in keeps):
        raise InvalidArgument(
            f"attention_mask of prompt {place} holds other values than 0 and 1: give one of them "
            "for each token"
        )
    if not any(keeps):
        raise InvalidArgument(f"attention_mask of prompt {place} keeps no token")
    first, end = keeps.index(1), len(keeps) - keeps[::-1].index(1)
    if 0 in keeps[first:end]:
        raise InvalidArgument(
            f"attention_mask of prompt {place} hides tokens between others: only padding in front "
            "of a prompt or behind it can be left out"
        )
    return list(ids[first:end])


def check_no_padding(
    prompts: Mapping[int, Sequence[int]], tokenizer: Any, of_one_array: bool
) -> None:
    """Raise for prompts (ids by their place) that begin or end with apparent padding.

    A padding token of its own has no other place there. One that is also the end or beginning token
    counts if there are several in a row, or, in rows of one array, not as many in each.
    """
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None:
        return
    also = (getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "eos_token_id", None))
    most = 1 if pad in also else 0
    runs = {place: (_run(ids, pad), _run(ids[::-1], pad)) for place, ids in prompts.items()}
    is_even = of_one_array and len({len(ids) for ids in prompts.values()}) == 1
    is_padded = is_even and len(set(runs.values())) > 1
    for place, run in runs.items():
        if max(run) > (0 if is_padded else most):
            where = "begins" if run[0] > run[1] else "ends"
            raise InvalidArgument(
                f"prompt {place} {where} with padding (token {pad}, {max(run)} times) and has no "
                "attention_mask: give input_ids and attention_mask, as tokenizers return them, or "
                "token ids without padding"
            )


def _run(ids: Sequence[int], pad: int) -> int:
    """How many padding tokens a prompt begins with."""
    return next((i for i, token in enumerate(ids) if token != pad), len(ids))
