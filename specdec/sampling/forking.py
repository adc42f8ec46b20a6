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
_FIXED = (tuple, frozenset, types.BuiltinFunctionType)


class CannotFork(InvalidArgument):
    """An object whose state cannot be copied."""


def fork(something: Any) -> Any:
    """An independent copy in the present state: by its own `fork()`, else a deep copy, in which
    functions have their own closures, defaults, attributes and global variables of their module.
    Models and tokenizers are shared, and so is what the variables of a class hold.

    Raises CannotFork for what keeps its state where a copy cannot have its own (a lock, a native
    handle).
    """
    own = getattr(something, "fork", None)
    if callable(own):
        return own()
    if _sets_globals(getattr(vars(type(something)).get("__call__"), "__code__", None)):
        raise CannotFork(
            f"{name_of(something)} keeps its state in a global variable, and rows and branches "
            "need one each: keep it in the object"
        )
    try:
        parts = list(_parts(something))
        functions = [part for part in parts if isinstance(part, types.FunctionType)]
        memo: dict[int, Any] = {id(part): part for part in parts if isinstance(part, _SHARED)}
        spaces: dict[int, dict[str, Any]] = {}  # of global variables, one copy of each module's
        for function in functions:
            space = spaces.setdefault(id(function.__globals__), {**function.__globals__})
            memo[id(function)] = _shell(function, space)
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
    """Whether it is a function that has nowhere to keep a state."""
    return isinstance(something, types.FunctionType) and all(map(_is_fixed, _parts(something)))


def _is_fixed(part: Any) -> bool:
    if isinstance(part, types.FunctionType):
        return not (part.__closure__ or part.__dict__ or _sets_globals(part.__code__))
    return isinstance(part, (*_SHARED, *_FIXED))  # what a tuple holds is a part, too


def _sets_globals(code: types.CodeType | None) -> bool:
    return code is not None and any(
        op in ("STORE_GLOBAL", "DELETE_GLOBAL") for op, _ in _global_steps(code)
    )


def _global_steps(code: types.CodeType) -> Iterator[tuple[str, str]]:
    """What a function, and all that are written in it, do with which global variables."""
    for step in dis.get_instructions(code):
        if step.opname.endswith("_GLOBAL"):
            yield step.opname, step.argval
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _global_steps(inner)


def _globals_of(function: types.FunctionType) -> dict[str, Any]:
    """The global variables that a function uses and that may hold its state: no atoms, and no
    functions of other modules."""
    space, found = function.__globals__, dict[str, Any]()
    for _, name in _global_steps(function.__code__):
        value = space.get(name)
        is_foreign = isinstance(value, types.FunctionType) and value.__globals__ is not space
        if not is_foreign and not isinstance(value, (*_ATOMS, *_SHARED)):
            found[name] = value
    return found


def _shell(function: types.FunctionType, space: dict[str, Any]) -> types.FunctionType:
    """The function with cells of its own, still empty, and other global variables."""
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    code, name = function.__code__, function.__name__
    twin = types.FunctionType(code, space, name, None, cells or None)
    for attribute in functools.WRAPPER_ASSIGNMENTS:
        setattr(twin, attribute, getattr(function, attribute))
    return twin


def _fill(function: types.FunctionType, memo: dict[int, Any]) -> None:
    twin = cast(types.FunctionType, memo[id(function)])
    twin.__defaults__ = copy.deepcopy(function.__defaults__, memo)
    twin.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__, memo)
    twin.__dict__.update(copy.deepcopy(function.__dict__, memo))
    twin.__globals__.update(copy.deepcopy(_globals_of(function), memo))
    for mine, theirs in zip(twin.__closure__ or (), function.__closure__ or (), strict=True):
        if _is_set(theirs):
            mine.cell_contents = copy.deepcopy(theirs.cell_contents, memo)


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
        defaults = [*(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).values()]
        return [*cells, *defaults, *part.__dict__.values(), *_globals_of(part).values()]
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
