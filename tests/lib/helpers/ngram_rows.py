"""Rows of text, and the n-gram drafter at work on them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from specdec.control.costs import PassCosts
from specdec.drafts.methods.ngram import NGramOptions
from specdec.drafts.ngram.drafter import NGramDrafter
from specdec.drafts.ngram.suffix_automaton import SuffixAutomaton
from specdec.drafts.ngram.text_index import NUM_EDGES, NUM_STATES
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import walk


def row_of(text: Sequence[int], stable: int | None = None, index: int = 0) -> Row:
    unused: Any = None
    return Row(
        index=index,
        prompt_index=0,
        tokens=list(text),
        num_prompt_tokens=len(text),
        max_tokens=10**6,
        sampler=unused,
        num_final=len(text) if stable is None else stable,
    )


# Of passes that cost a tenth of a plain step more as soon as there are drafts, and then per node.
COSTS = {10_000: {1: 1.0, 2: 1.135, 64: 1.1 + 0.035 * 63}}


def drafter_of(**options: int) -> NGramDrafter:
    drafter = NGramDrafter(None, NGramOptions(**options))
    drafter.costs = PassCosts(COSTS)
    return drafter


def proposal(drafter: NGramDrafter, row: Row, limit: int = 100) -> TokenTree:
    return drafter.propose([row], [limit])[0]


def generate(drafter: NGramDrafter, row: Row, text: Sequence[int]) -> list[tuple[int, int]]:
    """Let the target emit `text`; per round how many tokens were drafted and emitted."""
    rounds, end = [], len(row.tokens) + len(text)
    future = [*row.tokens, *text]
    while len(row.tokens) < end:
        limit = end - len(row.tokens) - 1
        tree = proposal(drafter, row, limit)
        depths, start = tree.depths(), len(row.tokens)
        verdict = walk(tree, lambda node, d=depths, s=start: future[s + d[node]])
        row.tokens += verdict.tokens
        row.num_final, row.round = len(row.tokens), row.round + 1
        drafter.observe([row], [tree], [verdict])
        rounds.append((tree.num_draft_tokens, len(verdict.tokens)))
    return rounds


def random_text(vocab: int, size: int) -> list[int]:
    return random.Random(vocab).choices(range(vocab), k=size)


def said(index: SuffixAutomaton) -> list[Any]:
    """All that an index knows, its empty room left out."""
    head = index._head.tolist()
    return [
        head,
        index._states[: head[NUM_STATES]].tolist(),
        index._edges[: head[NUM_EDGES]].tolist(),
    ]
