"""Which compiled kernels an op ran: what tells a kernel from a plain twin that gives the same.

KERNELS is the table of what should run, op by op; None where there is no such version.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from specdec.kernels.dispatch import Op

MANY = 32  # nodes from which a pass is a chunk of a prompt, which PyTorch's own attention takes
PLAIN = "the plain twin"

ATTENTION = "level_attention_numba.attention"
DOTS = "index_dots_numba._best"
SCORES = "index_scores_triton._score"
PAGES = "page_bounds_triton._summarise"

# op -> what it runs in Numba, and in Triton
KERNELS: dict[str, tuple[str | None, str | None]] = {
    "attention_inputs": ("decoder_block_numba.make_inputs", None),
    "choose_tokens": (None, "choose_tokens_triton._choose"),
    "chunk_attention": ("chunk_attention_numba._attention", None),
    "commit_path": ("stage_kv_numba._commit", "stage_kv_triton._commit"),
    "decoder_run": ("decoder_run_numba._run", None),
    "draft_block": ("draft_block_numba._step", None),
    "gather_attention": (ATTENTION, "gather_attention_triton._gather"),
    "head_argmax": ("head_argmax_numba._best", None),
    "index_logits": ("index_dots_numba.all_dots", None),
    "layer_output": ("decoder_block_numba.make_output", None),
    "level_attention": (ATTENTION, None),
    "members": (None, "members_triton._members"),
    "merge": ("merge_numba._fold", "merge_triton._merge"),
    "page_mass": ("page_mass_numba._mass", "page_mass_triton._mass"),
    "prefix_attention": (ATTENTION, "prefix_attention_triton._prefix"),
    "quantize_kv": (None, "quantize_kv_triton._quantize"),
    "quantized_attention": (
        "quantized_attention_numba._attention",
        "quantized_attention_triton._quantized",
    ),
    "score_bounds": (DOTS, SCORES),
    "score_labels": (DOTS, SCORES),
    "score_means": (DOTS, SCORES),
    "select_by_index": ("select_pages_numba.choose_by_index", None),
    "select_pages": ("select_pages_numba._choose", None),
    "skinny_linear": ("skinny_linear_numba.matrix_product", None),
    "stage_kv": ("stage_kv_numba._stage", "stage_kv_triton._stage"),
    "topk_pages": (None, "topk_pages_triton._select"),
    "traverse_trees": (None, "verify_trees_triton._traverse"),
    "tree_attention": (ATTENTION, "tree_attention_triton._tree"),
    "update_bounds": ("page_bounds_numba._update", PAGES),
    "update_labels": ("label_scores_numba._update", "label_scores_triton._labels"),
    "update_means": ("chunk_scores_numba._update", PAGES),
    "walk_trees": (None, "verify_trees_triton._walk"),
    "warp_scores": (None, "warp_scores_triton._warp"),
    "weight_rows": ("weight_rows_numba._fill", None),
}


# Calls that have no kernel, and say so where they are documented: op -> whether it is one of these.
WITHOUT: dict[str, Callable[..., bool]] = {
    "merge": lambda partials: len(partials) == 1,
    "prefix_attention": lambda q, *_, **__: q.shape[2] > MANY,
    "quantized_attention": lambda q, *_, **__: q.shape[2] > MANY,
    "score_labels": lambda *args: len(args) > 5 and args[5] is not None,
    "update_labels": lambda *_, scales=None, **__: scales is not None,
}


def kernel_of(op: str, kind: str) -> str | None:
    return KERNELS[op][("numba", "triton").index(kind)]


def wrong(calls: dict[str, list[set[str]]], kind: str) -> dict[str, set[str]]:
    """Ops of which a call did not run its kernel of this kind, or its plain twin too; what ran."""
    found = {}
    for op, each in calls.items():
        kernel = kernel_of(op, kind)
        for ran in each:
            if (PLAIN in ran) == (kernel is not None) or not {kernel or PLAIN} <= ran:
                found[op] = ran
    return found


@contextmanager
def recorded(by_name: bool = True) -> Iterator[dict[str, list[set[str]]]]:
    """For each op that is called meanwhile, what each of its calls ran: kernels, or its plain twin.

    A kernel counts for the innermost op that is under way. Calls that have no kernel are left out.
    by_name: a plain twin that is called by its name counts, too; who prepares a test may do so.
    """
    calls: dict[str, list[set[str]]] = defaultdict(list)
    under_way: list[set[str]] = []

    def entered(function: Any) -> None:
        if under_way:
            module = function.__module__.rpartition(".")[2]
            under_way[-1].add(f"{module}.{function.__name__}")

    def call(op: Op[..., Any], *args: Any, **kwargs: Any) -> Any:
        ran: set[str] = set()
        if not WITHOUT.get(op.__name__, _never)(*args, **kwargs):
            calls[op.__name__].append(ran)
        under_way.append(ran)
        try:
            return called(op, *args, **kwargs)
        finally:
            under_way.pop()

    def plain_of(op: Op[..., Any]) -> Any:
        def tell(*_: Any) -> None:
            if under_way:
                under_way[-1].add(PLAIN)
            elif by_name:
                calls[op.__name__].append({PLAIN})

        return _telling(vars(op)["plain"], tell)

    called = Op.__call__
    with ExitStack() as stack:
        stack.enter_context(patch.object(Op, "__call__", call))
        stack.enter_context(patch.object(Op, "plain", property(plain_of), create=True))
        for each in _watched(entered):
            stack.enter_context(each)
        yield calls


def _never(*_: Any, **__: Any) -> bool:
    return False


def _watched(entered: Callable[[Any], None]) -> Iterator[Any]:
    """Patches that tell of each kernel that Python enters: Numba's, Triton's, the interpreter's."""
    from numba.core.registry import CPUDispatcher

    run = CPUDispatcher.__call__
    yield patch.object(CPUDispatcher, "__call__", _telling(run, lambda x, *_: entered(x.py_func)))
    try:
        from triton.runtime.interpreter import InterpretedFunction
        from triton.runtime.jit import JITFunction
    except ImportError:
        return
    for kind in (InterpretedFunction, JITFunction):
        yield patch.object(kind, "run", _telling(kind.run, lambda x, *_: entered(x.fn)))


def _telling(function: Callable[..., Any], tell: Callable[..., Any]) -> Callable[..., Any]:
    """The function, telling of its positional arguments first."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        tell(*args)
        return function(*args, **kwargs)

    return call
