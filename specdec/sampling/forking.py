"""fork: an independent copy of a caller's object, with all of its state or not at all."""

from __future__ import annotations

import copy
import dis
import functools
import types
from collections.abc import Iterator
from typing import Any, cast

from torch import nn
from transformers import PreTrainedTokenizerBase

from specdec.errors import InvalidArgument
from specdec.sampling.scores import name_of

# What an object uses and does not change: a copy would only cost memory.
_SHARED = (nn.Module, PreTrainedTokenizerBase, types.ModuleType, type)
_ATOMS = (str, bytes, int, float, bool, complex, type(None))


class CannotFork(InvalidArgument):
    """An object whose state cannot be copied."""


def fork(something: Any) -> Any:
    """An independent copy in the present state: by its own `fork()`, else a deep copy, in which
    functions have their own closures and defaults. Models and tokenizers are shared.

    Raises CannotFork for what keeps its state where a copy cannot have its own (a lock, a native
    handle, a global variable).
    """
    own = getattr(something, "fork", None)
    if callable(own):
        return own()
    try:
        memo: dict[int, Any] = {}
        functions = []
        for part in _parts(something):
            if isinstance(part, _SHARED):
                memo[id(part)] = part
            elif isinstance(part, types.FunctionType) and _has_state(part):
                functions.append(part)
                memo[id(part)] = _shell(part)
        for function in functions:
            _fill(function, memo)
        return copy.deepcopy(something, memo)
    except CannotFork:
        raise
    except Exception as error:
        raise CannotFork(
            f"{name_of(something)} cannot be copied ({error}), and rows and branches need a copy "
            "each: give it a fork() method, or stateless = True if it keeps no state between calls"
        ) from error


def is_plain_function(something: Any) -> bool:
    """Whether it is a function that has nowhere of its own to keep a state."""
    return isinstance(something, types.FunctionType) and not _has_state(something)


def _has_state(function: types.FunctionType) -> bool:
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    is_mutable = any(not isinstance(x, (*_ATOMS, *_SHARED)) for x in defaults)
    return bool(function.__closure__) or is_mutable or _sets_globals(function)


def _sets_globals(function: types.FunctionType) -> bool:
    return any(
        x.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") for x in dis.get_instructions(function)
    )


def _shell(function: types.FunctionType) -> types.FunctionType:
    """The function with cells of its own, still empty."""
    if _sets_globals(function):
        raise CannotFork(
            f"{name_of(function)} keeps its state in a global variable, and rows and branches need "
            "one each: keep it in an object or a closure"
        )
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    twin = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, None, cells or None
    )
    functools.update_wrapper(twin, function)
    twin.__dict__.pop("__wrapped__", None)
    return twin


def _fill(function: types.FunctionType, memo: dict[int, Any]) -> None:
    twin = cast(types.FunctionType, memo[id(function)])
    twin.__defaults__ = copy.deepcopy(function.__defaults__, memo)
    twin.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__, memo)
    for mine, theirs in zip(twin.__closure__ or (), function.__closure__ or (), strict=True):
        try:
            content = theirs.cell_contents
        except ValueError:  # not set yet
            continue
        mine.cell_contents = copy.deepcopy(content, memo)


def _parts(root: Any) -> Iterator[Any]:
    """An object and all that it holds, each once."""
    seen: set[int] = set()
    todo = [root]
    while todo:
        part = todo.pop()
        if id(part) in seen or isinstance(part, _ATOMS):
            continue
        seen.add(id(part))
        yield part
        todo.extend(_children(part))


def _children(part: Any) -> list[Any]:
    if isinstance(part, _SHARED):
        return []
    if isinstance(part, types.FunctionType):
        cells = [x.cell_contents for x in part.__closure__ or () if _is_set(x)]
        return [*cells, *(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).values()]
    if isinstance(part, types.MethodType):
        return [part.__self__, part.__func__]
    if isinstance(part, functools.partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, dict):
        return [*part.keys(), *part.values()]
    if isinstance(part, (list, tuple, set, frozenset)):
        return list(part)
    slots = [getattr(part, name, None) for kind in type(part).__mro__ for name in _slots(kind)]
    return [*vars(part).values(), *slots] if hasattr(part, "__dict__") else slots


def _slots(kind: type) -> tuple[str, ...]:
    names = vars(kind).get("__slots__", ())
    return (names,) if isinstance(names, str) else tuple(names)


def _is_set(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
