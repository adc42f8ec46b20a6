"""The order of merges of one score, so that BPE by rank gives what SentencePiece gives by place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TypeAlias

from specdec.errors import UnsupportedModel

Pair: TypeAlias = tuple[str, str]

_MANY = 5000  # pairs of one score: a file without scores, whose order would take minutes to find


def ordered(by_score: Mapping[float, Sequence[Pair]]) -> list[Pair]:
    """All pairs, the best score first; those of one score by what they do to each other.

    by_score: pairs by the score of their sum, those of one sum together.

    Where several pairs have the best score, SentencePiece merges the one that stands leftmost. So
    of two pairs that want one token, be it for what grows out of them at once, the one that comes
    from the left goes first. Raises UnsupportedModel where both may.
    """
    ties = {score for score, pairs in by_score.items() if "".join(pairs[0]) != "".join(pairs[-1])}
    better: dict[str, list[Pair]] = defaultdict(list)  # part -> pairs of no lower score
    found: list[Pair] = []
    for score in sorted(by_score, reverse=True):
        pairs = by_score[score]
        if ties:  # or nobody asks
            for left, right in pairs:
                better[left].append((left, right))
                if right != left:
                    better[right].append((left, right))
        found += _in_order(pairs, better, score) if score in ties else pairs
    return found


def _in_order(
    pairs: Sequence[Pair], better: Mapping[str, Sequence[Pair]], score: float
) -> list[Pair]:
    if len(pairs) > _MANY:
        raise _tie([left + right for left, right in pairs[:2]], score)
    mine = set(pairs)
    by_left, by_right = defaultdict[str, list[Pair]](list), defaultdict[str, list[Pair]](list)
    runs: dict[str, list[Pair]] = defaultdict(list)
    graph: TopologicalSorter[Pair] = TopologicalSorter()
    for pair in pairs:
        graph.add(pair)
        by_left[pair[0]].append(pair)
        by_right[pair[1]].append(pair)
        runs[_letter(pair)].append(pair)
    for letter, same in runs.items():
        same.sort(key=lambda pair: (-len(pair[0]) - len(pair[1]), -len(pair[0])))
        for first, second in zip(same, same[1:], strict=False):
            if letter:  # a run grows from the left, and the longest goes on
                graph.add(second, first)
    for pair in pairs:
        before, behind = _wanted(pair, better)
        order = [(other, pair) for token in before for other in by_right[token]]
        order += [(pair, other) for token in behind for other in by_left[token]]
        for first, second in order:
            one_run = _letter(first) and _letter(first) == _letter(second)
            one_sum = "".join(first) == "".join(second)
            if not one_sum and not one_run and not _overgrown(second, mine):
                graph.add(second, first)
    try:
        return list(graph.static_order())
    except CycleError as error:
        raise _tie(sorted({left + right for left, right in error.args[1]}), score) from error


def _wanted(pair: Pair, better: Mapping[str, Sequence[Pair]]) -> tuple[set[str], set[str]]:
    """The tokens that a merge, and those that follow on it at once, take from left and right."""
    before, behind, grown = {pair[0]}, {pair[1]}, [pair[0] + pair[1]]
    seen = set(grown)
    while grown:
        part = grown.pop()
        for left, right in better.get(part, ()):
            if left == part:
                behind.add(right)
            if right == part:
                before.add(left)
            if left + right not in seen:
                seen.add(left + right)
                grown.append(left + right)
    return before, behind


def _letter(pair: Pair) -> str:
    """The letter of which a pair is a run, or nothing."""
    return pair[0][0] if len({*pair[0], *pair[1]}) == 1 else ""


def _overgrown(pair: Pair, mine: set[Pair]) -> bool:
    """Whether a pair never comes up, as in "hahaha": the sum has grown from the left already."""
    left, right = pair
    return len(left) < len(right) and ((left + right)[: -len(left)], left) in mine


def _tie(sums: Iterable[str], score: float) -> UnsupportedModel:
    return UnsupportedModel(
        f"the tokens {', '.join(map(repr, sums))} have one score, {score:g}, in "
        "tokenizer.ggml.scores, so that their place in a text decides between them: that is not "
        "supported. Give a safetensors folder of the same model"
    )
