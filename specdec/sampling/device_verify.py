"""Verification of a batch of trees where its logits are: nothing but paths comes to the host.

What `Sampler.verify` decides for one row, for rows whose processors are temperature, top-k, top-p
and min-p at most. On a GPU the laws of `traversal` are float32 here, where the host's are float64,
and a token whose mass is within rounding of a top-p cut may stand on the other side of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers as t
from torch import Tensor

from specdec.kernels.dispatch import kind_for
from specdec.kernels.precision import wide
from specdec.kernels.sampling.choose_tokens import choose_tokens
from specdec.kernels.sampling.philox import first_uniforms
from specdec.kernels.sampling.verify_trees import traverse_trees, walk_trees
from specdec.kernels.sampling.warp_scores import warp_scores
from specdec.sampling.scores import nothing_allowed
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import Verdict

# warper -> (its place among the settings of `warp_scores`, the attribute that holds it)
_WARPERS: dict[type, tuple[int, str]] = {
    t.TemperatureLogitsWarper: (0, "temperature"),
    t.TopKLogitsWarper: (1, "top_k"),
    t.TopPLogitsWarper: (2, "top_p"),
    t.MinPLogitsWarper: (3, "min_p"),
}
_OFF = (1.0, 0, 1.0, 0.0)
_DTYPES = (torch.float32, torch.int32, torch.float32, torch.float32)


def suits(rows: Sequence[Row], logits: Sequence[Tensor]) -> bool:
    """Whether these rows can be verified on their device, and it has kernels for that."""
    kinds = {(row.sampler.samples, row.sampler.draws) for row in rows}
    is_one = has_kernels(logits[0]) and len(kinds) == 1
    return is_one and all(settings(row) is not None for row in rows)


def has_kernels(logits: Tensor) -> bool:
    """Whether verification runs in Triton there; a CPU is its own host."""
    return kind_for(logits) == "triton"


def settings(row: Row) -> tuple[float, ...] | None:
    """The row's temperature, top-k, top-p and min-p; None where something else shapes its law."""
    found: list[Any] = list(_OFF)
    least = -1
    for processor in row.sampler.processors:
        place, name = _WARPERS.get(type(processor), (-1, ""))
        in_order, plain = place > least, getattr(processor, "min_tokens_to_keep", 1) == 1
        if not in_order or not plain or getattr(processor, "filter_value", -torch.inf) > -torch.inf:
            return None
        least, found[place] = place, float(getattr(processor, name))
    return tuple(found)


def verify(
    rows: Sequence[Row],
    trees: Sequence[TokenTree],
    logits: Sequence[Tensor],
    finals: Sequence[Callable[[int], bool]],
) -> list[Verdict]:
    """The verdicts on `trees`, given the target's logits `[N, V]` after the nodes of each."""
    if rows[0].sampler.draws and len({tree.is_sampled for tree in trees}) > 1:
        return _apart(rows, trees, logits, finals)
    counts = [len(tree) for tree in trees]
    scores = logits[0] if len(logits) == 1 else torch.cat(list(logits))
    warped = [settings(row) or _OFF for row in rows]
    if any(row != _OFF for row in warped):
        each = [row for row, count in zip(warped, counts, strict=True) for _ in range(count)]
        columns = zip(zip(*each, strict=True), _DTYPES, strict=True)
        peak = scores.amax(-1)
        scores = warp_scores(scores, *(_tensor(x, scores, dtype) for x, dtype in columns))
        scores[:, 0] += torch.where(peak.isnan(), torch.nan, 0.0)  # warpers may drop the token
    decide = _traverse if _is_drawn(rows, trees) else _walk
    paths, last = decide(rows, trees, scores)
    read = read_back(torch.cat([paths.long(), last[:, None]], dim=1))
    return [
        _verdict(row, tree, [node for node in path if node >= 0], token, is_final)
        for row, tree, (*path, token), is_final in zip(rows, trees, read, finals, strict=True)
    ]


def read_back(x: Tensor) -> list[Any]:
    """A small tensor's numbers: from a GPU by one copy to pinned memory, and no wait but for it."""
    if not x.is_cuda:
        return x.tolist()
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    host.copy_(x, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(x.device))
    copied.synchronize()
    return host.tolist()


def _is_drawn(rows: Sequence[Row], trees: Sequence[TokenTree]) -> bool:
    return rows[0].sampler.draws and trees[0].is_sampled


def _apart(
    rows: Sequence[Row],
    trees: Sequence[TokenTree],
    logits: Sequence[Tensor],
    finals: Sequence[Callable[[int], bool]],
) -> list[Verdict]:
    """The same for trees with drawn nodes and those without, each kind by itself."""
    verdicts: dict[int, Verdict] = {}
    for sampled in (False, True):
        mine = [i for i, tree in enumerate(trees) if tree.is_sampled == sampled]
        parts = ([x[i] for i in mine] for x in (rows, trees, logits, finals))
        verdicts |= zip(mine, verify(*parts), strict=True)  # type: ignore[arg-type]
    return [verdicts[i] for i in range(len(rows))]


def _walk(rows: Sequence[Row], trees: Sequence[TokenTree], scores: Tensor) -> tuple[Tensor, Tensor]:
    """Paths by the target's own choices, and the choice after the last node of each."""
    noise: tuple[Tensor, ...] = ()
    if rows[0].sampler.samples:
        places = [
            (row.sampler.noise.key, *row.sampler.noise.counter(len(row.tokens) + depth))
            for row, tree in zip(rows, trees, strict=True)
            for depth in tree.depths()
        ]
        noise = _noise(places, scores)
    chosen = _known(choose_tokens(scores, *noise), scores, rows[0].sampler.samples)
    tokens, parents = _padded(trees, scores)
    choices = torch.zeros_like(tokens)
    choices[_held(trees, scores)] = chosen
    paths = walk_trees(choices, tokens, parents)
    last = (paths >= 0).sum(-1, keepdim=True) - 1
    return paths, choices.gather(1, paths.long().gather(1, last))[:, 0]


def _traverse(
    rows: Sequence[Row], trees: Sequence[TokenTree], scores: Tensor
) -> tuple[Tensor, Tensor]:
    """Paths by traversal verification, and the token drawn after the last node of each."""
    wider = wide(scores)
    tokens, parents = _padded(trees, scores)
    held, (batch, nodes) = _held(trees, scores), tokens.shape
    target = wider.new_zeros(batch, nodes, wider.shape[-1])
    target[held] = wider.softmax(-1)
    draft, laws = torch.zeros_like(target), torch.zeros_like(parents)
    laws[held] = _tensor([int(law) for tree in trees for law in tree.laws], scores, torch.int32)
    for b, tree in enumerate(trees):
        for node, probs in tree.draft_probs.items():
            draft[b, node] = probs
    tests = [row.sampler.noise.tests(row.round) for row in rows]
    places = [
        (test.key, *test.counter(used)) for test in tests for used in range(max(1, nodes - 1))
    ]
    keys, counters = _words(places)
    numbers = first_uniforms(keys, counters).view(batch, -1).to(scores.device)
    paths, used = traverse_trees(target, draft, tokens, parents, laws, numbers)
    last = paths.gather(1, (paths >= 0).sum(-1, keepdim=True) - 1)[:, 0].long()
    left = target[torch.arange(batch, device=scores.device), last]
    keys, counters = _noise([(test.key, *test.counter(0)) for test in tests], scores)
    counters[:, 2] += used.long() << 2
    return paths, _known(choose_tokens(left.log(), keys, counters), left, True)


def _known(chosen: Tensor, scores: Tensor, samples: bool) -> Tensor:
    """The tokens chosen by `scores[M, V]`; -1 where none can be: see `fault_of`. Kernels pass over
    what is no number, so that is looked for here."""
    peak = scores.amax(-1)
    return chosen.where(peak.isfinite() if samples else peak > -torch.inf, -1)


def _verdict(
    row: Row, tree: TokenTree, path: list[int], token: int, is_final: Callable[[int], bool]
) -> Verdict:
    """The verdict, which ends where the text does. Raises NothingAllowed for a last token of -1."""
    tokens = [*(tree.tokens[node] for node in path[1:]), token]
    for count, emitted in enumerate(tokens, start=1):
        if emitted < 0:
            at = len(row.tokens) + count - 1
            raise nothing_allowed(row.index, at, "no token has a finite score")
        if is_final(emitted):
            return Verdict(path[: count + 1], tokens[:count], True)
    return Verdict(path, tokens)


def _padded(trees: Sequence[TokenTree], like: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens `int64[B, N]` and parents `int32[B, N]`; padding has no parent."""
    width = max(map(len, trees))
    tokens = [tree.tokens + [0] * (width - len(tree)) for tree in trees]
    parents = [tree.parents + [-1] * (width - len(tree)) for tree in trees]
    return _tensor(tokens, like, torch.int64), _tensor(parents, like, torch.int32)


def _held(trees: Sequence[TokenTree], like: Tensor) -> tuple[Tensor, Tensor]:
    """Where each node of all trees, one after another, stands in a padded batch."""
    places = [(b, node) for b, tree in enumerate(trees) for node in range(len(tree))]
    b, node = _tensor(places, like, torch.int64).unbind(-1)
    return b, node


def _noise(places: Sequence[tuple[int, ...]], like: Tensor) -> tuple[Tensor, Tensor]:
    keys, counters = _words(places)
    return keys.to(like.device, non_blocking=True), counters.to(like.device, non_blocking=True)


def _words(places: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Keys `int64[n]`, modulo 2^64, and counters `int64[n, 3]` of (key, three words)."""
    keys = [key - (1 << 64) if key >> 63 & 1 else key for key, *_ in places]
    return torch.tensor(keys), torch.tensor([words for _, *words in places])


def _tensor(values: Any, like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype).to(like.device, non_blocking=True)
