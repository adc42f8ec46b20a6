"""Merges: the pairs of tokens that BPE joins, best first, as a GGUF file tells them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from specdec.errors import UnsupportedModel, WeightsError
from specdec.loading.gguf.ties import Pair, ordered
from specdec.loading.gguf.vocab import ADDED, GGUFVocab

SPACE = "\u2581"  # what SentencePiece writes for a space
_INSTEAD = "Give a safetensors folder of the same model"


def listed_merges(ids: Mapping[str, int], merges: Sequence[str] | None) -> list[Pair]:
    """The merges of a byte-level vocabulary: `tokenizer.ggml.merges`; the first of equals counts.

    Raises WeightsError without them, UnsupportedModel for a merge of what are no tokens.
    """
    if merges is None:
        raise WeightsError("tokenizer.ggml.merges is missing: the file is not whole")
    pairs: dict[Pair, None] = {}
    for merge in merges:
        left, _, right = merge[1:].partition(" ")  # the first character may be a space itself
        pair = (merge[:1] + left, right)
        if not all(text in ids for text in (*pair, "".join(pair))):
            raise UnsupportedModel(
                f"tokenizer.ggml.merges holds {merge!r}, but one of the two or their sum is no "
                f"token: such merges are not supported. {_INSTEAD}"
            )
        pairs[pair] = None
    return list(pairs)


def scored_merges(vocab: GGUFVocab, ids: Mapping[str, int]) -> list[Pair]:
    """The merges of a SentencePiece vocabulary: all pairs whose sum is a token, by its score.

    Raises UnsupportedModel where no order of pairs gives SentencePiece's tokens.
    """
    by_score: dict[float, list[Pair]] = defaultdict(list)
    for i, text in enumerate(vocab.tokens):
        # What is cut out of a text before, no merge ever gives.
        if (vocab.kinds[i] not in ADDED or SPACE in text) and (pairs := _pairs(text, ids)):
            by_score[vocab.scores[i]] += pairs
    return ordered(by_score)


def _pairs(text: str, ids: Mapping[str, int]) -> list[Pair]:
    """The pairs of tokens with this sum, those with a longer left part first.

    A vocabulary has two million ways to cut its tokens, so this is written for speed.
    """
    pairs = []
    last = len(text) - 1
    for cut in range(last, 0, -1):
        left, right = text[:cut], text[cut:]
        if left in ids:
            if right in ids:
                pairs.append((left, right))
            elif cut == last:
                raise _no_tokens(text, left, right)
        elif cut == 1 and (right in ids or cut == last):
            raise _no_tokens(text, left, right)
    return pairs


def _no_tokens(text: str, left: str, right: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"the token {text!r} joins {left!r} and {right!r}, and not both are tokens: "
        f"such vocabularies are not supported. {_INSTEAD}"
    )
