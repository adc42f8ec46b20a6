"""A suffix automaton in arrays, compiled: taking up tokens, following a text, growing a tree.

All of it in one file, since what is kept of compiled code goes by the file that it stands in.
Where Numba cannot be used the same functions run as plain Python, some fifty times as slowly.

states: `int64[S, 5]`. edges: `int64[E, 4]`, each also in the list of its state. table: `int32[H]`,
H a power of two: a hash of edges by state and token, -1 where it is free. head: `int64[5]`.
`SuffixAutomaton` says what they mean, and sees to it that there is room.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from specdec.kernels.dispatch import has_numba
from specdec.sampling.prompt import MARK as _MARK

LENGTH, LINK, COUNT, END, EDGE = range(5)  # of a state; EDGE: its first edge, -1 for none
STATE, TOKEN, TO, NEXT = range(4)  # of an edge; NEXT: another of its state, -1 for none
NUM_TOKENS, NUM_STATES, NUM_EDGES, WHOLE, REPEATED = range(5)  # of the head
MAX_NODES = 63  # of a tree whose size is ours to choose, its root not counted
MIN_CHANCE = 0.02  # below that no node pays, whatever a pass costs
NOVELTY_RATE = 0.5  # how fast a text learns
NOVELTY_LIMIT = 3.0  # how far: a few right guesses must wake a drafter that went quiet
MARK = int(_MARK)  # a constant of the compiled code


def _compilers() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """For what Python calls, and for what compiled code alone does."""
    if not has_numba():
        return (lambda function: function,) * 2
    from specdec.kernels.cpu.jit import SERIAL, inner, njit

    return njit(**SERIAL), inner


compiled, inner = _compilers()


@inner
def place_of(edges, table, state, token):
    """Where the edge of a state by a token stands in the table, or would stand."""
    low, high = token & 0x3FFFFFFF, (token >> 30) & 0x3FFFFFFF
    mixed = (state * 0x9E3779B1 ^ (low ^ high) * 0x5BD1E995) & 0x3FFFFFFFFFFFFFFF
    place = (mixed ^ mixed >> 29) & (len(table) - 1)
    while True:
        edge = table[place]
        if edge < 0 or (edges[edge, STATE] == state and edges[edge, TOKEN] == token):
            return place
        place = (place + 1) & (len(table) - 1)


@inner
def after(edges, table, state, token):
    """The state that follows a state by a token, -1 for none."""
    edge = table[place_of(edges, table, state, token)]
    return edges[edge, TO] if edge >= 0 else -1


@inner
def add_edge(states, edges, table, head, state, token, to):
    """An edge that was not there, in place."""
    edge = head[NUM_EDGES]
    edges[edge, STATE], edges[edge, TOKEN], edges[edge, TO] = state, token, to
    edges[edge, NEXT] = states[state, EDGE]
    table[place_of(edges, table, state, token)] = edge
    states[state, EDGE] = edge
    head[NUM_EDGES] = edge + 1


@compiled
def rehash(edges, table, count):
    """Enter the first `count` edges in an empty table, in place."""
    for edge in range(count):
        table[place_of(edges, table, edges[edge, STATE], edges[edge, TOKEN])] = edge


@inner
def append(states, edges, table, head, token, max_match):
    """Add one token to the text, in place; amortised O(1)."""
    place, new, state = head[NUM_TOKENS] + 1, head[NUM_STATES], head[WHOLE]
    head[NUM_TOKENS], head[NUM_STATES], head[WHOLE] = place, new + 1, new
    states[new, LENGTH], states[new, LINK] = place, 0
    states[new, COUNT], states[new, END], states[new, EDGE] = 1, place, -1
    # Suffixes that `token` never followed lead to the new state from now on.
    old = -1
    while state >= 0:
        old = after(edges, table, state, token)
        if old >= 0:
            break
        add_edge(states, edges, table, head, state, token, new)
        state = states[state, LINK]
    if old < 0:
        head[REPEATED] = 0
        return
    longest = states[state, LENGTH] + 1
    if states[old, LENGTH] > longest:
        # The shorter strings of `old` gain a place, its longest does not: split them off.
        split = new + 1
        head[NUM_STATES] = split + 1
        for part in range(5):
            states[split, part] = states[old, part]
        states[split, LENGTH], states[split, EDGE] = longest, -1
        states[old, LINK] = split
        edge = states[old, EDGE]
        while edge >= 0:
            add_edge(states, edges, table, head, split, edges[edge, TOKEN], edges[edge, TO])
            edge = edges[edge, NEXT]
        while state >= 0:
            edge = table[place_of(edges, table, state, token)]
            if edge < 0 or edges[edge, TO] != old:
                break
            edges[edge, TO] = split
            state = states[state, LINK]
        old = split
    states[new, LINK] = old
    if states[old, LENGTH] > max_match:
        # Longer than we follow; the capped suffix moves on by the same token.
        old = after(edges, table, head[REPEATED], token)
        while states[states[old, LINK], LENGTH] >= max_match:
            old = states[old, LINK]
    head[REPEATED] = old
    while old > 0:
        states[old, COUNT] += 1
        states[old, END] = place
        old = states[old, LINK]


@compiled
def step(states, edges, table, state, length, token, max_match):
    """The match after one more token that is not added to the text."""
    to = after(edges, table, state, token)
    while to < 0 and state > 0:
        state = states[state, LINK]
        length = states[state, LENGTH]
        to = after(edges, table, state, token)
    if to < 0:
        return 0, 0
    state, length = to, min(length + 1, max_match)
    while states[states[state, LINK], LENGTH] >= length:
        state = states[state, LINK]
    while state > 0 and states[state, EDGE] < 0:  # it occurred at the very end only
        state = states[state, LINK]
        length = states[state, LENGTH]
    return state, length


@compiled
def match(states, edges, table, head, tail, max_match):
    """The state and length of `SuffixAutomaton.match`."""
    state = head[REPEATED]
    length = min(states[state, LENGTH], max_match)
    for token in tail:
        state, length = step(states, edges, table, state, length, token, max_match)
    return state, length


@compiled
def take_up(states, edges, table, head, tokens, untaught, min_ngram, max_match, novelty):
    """Add tokens to the text, in place, and learn from all but the first `untaught` of them how
    little it repeats itself: the new novelty."""
    for i in range(len(tokens)):
        token, state = tokens[i], head[REPEATED]
        length = min(states[state, LENGTH], max_match)
        if i >= untaught and length >= min_ngram:
            known, different, came = 0, 0, 0
            edge = states[state, EDGE]
            while edge >= 0:
                known += states[edges[edge, TO], COUNT]
                different += 1
                came += edges[edge, TOKEN] == token
                edge = edges[edge, NEXT]
            escape = 2.0 / length * math.exp(novelty)
            novelty += NOVELTY_RATE * (known / (known + escape * different) - came)
            novelty = max(-NOVELTY_LIMIT, min(NOVELTY_LIMIT, novelty))
        append(states, edges, table, head, token, max_match)
    return novelty


@compiled
def grow(
    states, edges, table, head, tail, max_depth, width, min_ngram, max_match, novelty,
    seconds, slopes, most,
):  # fmt: skip
    """The tree below the last token, its nodes in order of falling probability.

    most: nodes that there is room for. seconds, slopes: of `Sizes`, where the size is ours to
    choose; else empty. Returns tokens and parents `int64[N]` and chances `float64[N]`, without
    the root, which is node 0.
    """
    state, length = match(states, edges, table, head, tail, max_match)
    if length < min_ngram or max_depth < 1:
        return np.empty((0, 2), np.int64), np.empty(0)
    nodes, chances, count = np.empty((most, 2), np.int64), np.empty(most), 0
    room = np.full(max_depth, width)  # nodes that each level can still take
    # Candidates in order of rising probability, of two that are equally probable the first one
    # last: parent, level, token, and the state and length of the parent's match.
    found, odds, waiting = (
        np.empty(((most + 1) * width, 5), np.int64),
        np.empty((most + 1) * width),
        0,
    )
    best = np.empty(width, np.int64)
    parent, level, above, tokens = 0, 0, 1.0, 1.0
    while True:
        if length >= min_ngram and level < max_depth:
            # below `parent`, the continuations seen most often, then most recently
            total, different, kept = 0, 0, 0
            edge = states[state, EDGE]
            while edge >= 0:
                to = edges[edge, TO]
                total += states[to, COUNT]
                different += 1
                if edges[edge, TOKEN] < MARK:
                    at = kept
                    while at > 0 and is_better(states, edges, edge, best[at - 1]):
                        if at < width:
                            best[at] = best[at - 1]
                        at -= 1
                    if at < width:
                        best[at] = edge
                        kept = min(kept + 1, width)
                edge = edges[edge, NEXT]
            whole = total + 2.0 / length * math.exp(novelty) * different
            for i in range(kept):
                below = above * states[edges[best[i], TO], COUNT] / whole
                at = waiting
                while at > 0 and odds[at - 1] >= below:
                    odds[at] = odds[at - 1]
                    for part in range(5):
                        found[at, part] = found[at - 1, part]
                    at -= 1
                odds[at] = below
                found[at, 0], found[at, 1], found[at, 2] = parent, level, edges[best[i], TOKEN]
                found[at, 3], found[at, 4] = state, length
                waiting += 1
        while waiting and not room[found[waiting - 1, 1]]:
            waiting -= 1
        if not waiting:
            break
        waiting -= 1
        above = odds[waiting]
        if len(seconds) and (
            above < MIN_CHANCE
            or count >= MAX_NODES
            or not above * seconds[count] > tokens * slopes[count]
        ):
            break  # nor will all less probable ones pay
        parent, level, token = found[waiting, 0], found[waiting, 1], found[waiting, 2]
        room[level] -= 1
        tokens += above
        nodes[count, 0], nodes[count, 1], chances[count] = token, parent, above
        state, length = step(
            states, edges, table, found[waiting, 3], found[waiting, 4], token, max_match
        )
        count += 1
        parent, level = count, level + 1
    return nodes[:count], chances[:count]


@inner
def is_better(states, edges, one, other):
    """Whether an edge leads to a continuation that was seen more often, or later, than another."""
    mine, its = edges[one, TO], edges[other, TO]
    if states[mine, COUNT] != states[its, COUNT]:
        return states[mine, COUNT] > states[its, COUNT]
    if states[mine, END] != states[its, END]:
        return states[mine, END] > states[its, END]
    return edges[one, TOKEN] > edges[other, TOKEN]
