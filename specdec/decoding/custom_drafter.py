"""CustomDrafter: a drafter of the caller's own, held to what `Drafter` promises."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import index
from typing import Any

import torch

from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Drafter, Reach
from specdec.decoding.options import DraftOptions
from specdec.decoding.stats import Stats
from specdec.errors import InvalidArgument
from specdec.forward.plan import Needs
from specdec.forward.view_reads import ReadStats
from specdec.method import Method
from specdec.model.target import Target
from specdec.sampling.sequence import Row
from specdec.sampling.tree import Law, TokenTree
from specdec.sampling.verify import Verdict

_METHODS = ("join", "leave", "propose", "observe")
_BEFORE = ("begin", "propose", "observe")  # of the last release
_HINT = (
    "give a name, an object with join, leave, propose and observe, its class, or a function of "
    "(target, options) that returns one"
)


def options_of(given: Any) -> type[Method] | None:
    """The attribute `Options` of a drafter of a user's own: a `Method`, whose fields it is told."""
    options = getattr(given, "Options", None)
    return options if isinstance(options, type) and issubclass(options, Method) else None


def takes_options(given: Any) -> bool:
    """Whether `drafter=` is a class or function that is told the target and options.

    Raises InvalidArgument, with the signature, for what can be no drafter at all.
    """
    if not isinstance(given, type) and not _missing(given):
        return False
    if isinstance(given, torch.nn.Module):
        raise InvalidArgument(
            f"drafter is a {type(given).__name__}: give the model as draft_model=, and a drafter "
            "that runs it, such as 'model'"
        )
    if not callable(given):
        missing = _missing(given)
        lacks = f" without {' and '.join(missing)}" if len(missing) < len(_METHODS) else ""
        raise InvalidArgument(f"drafter is a {type(given).__name__}{lacks}: {_HINT}")
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):  # a builtin that does not tell
        return True
    for arguments in ((None, None), ()):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return bool(arguments)
    raise InvalidArgument(f"drafter {_name_of(given)} is called as {signature}: {_HINT}")


class CustomDrafter(Drafter):
    """Makes a drafter from `drafter=` and hands on every call; what it proposes is checked.

    Who takes options is told `DraftOptions`, or, where it has an attribute `Options`, that.

    Its trees must be one for each row, over the row's last token, and well formed; a tree that is
    not raises InvalidArgument with the drafter's name. Nodes of nobody are its own. One that has
    `begin` in place of `join` and `leave` works for rows that all join at once.
    """

    def __init__(self, given: Any, target: Target, options: Mapping[str, Any]) -> None:
        if takes_options(given):
            own = options_of(given)
            told = DraftOptions(**options) if own is None else own.given(options)
            made = given(target, told)
        else:
            made = given() if isinstance(given, type) or _missing(given) else given
        if missing := _missing(made):
            raise InvalidArgument(f"drafter {_name_of(given)} has no {', '.join(missing)}: {_HINT}")
        self.own: Drafter = made
        self.name = str(getattr(made, "name", type(made).__name__))
        self.vocab_size = target.vocab_size
        self._has_begun = False
        self.needs = self._told("needs", Needs())
        if "needs" not in dir(made) and hasattr(made, "wants"):  # of the last release
            warnings.warn(
                f"drafter {self.name}: the attribute wants is needs now; the old name works for "
                "one release",
                DeprecationWarning,
                stacklevel=2,
            )
            self.needs = made.wants
        self.traits, self.reach = self._told("traits", None), self._told("reach", Reach())

    def _told(self, name: str, default: Any) -> Any:
        """An attribute of the caller's drafter, which need not derive from `Drafter`."""
        return getattr(self.own, name, default)

    def join(self, rows: Sequence[Row], verifier: CachedModel) -> None:
        begin = getattr(self.own, "begin", None)
        if callable(getattr(self.own, "join", None)) or begin is None:
            self.own.join(rows, verifier)
            return
        if self._has_begun:
            raise self._wrong("has begin, and rows come later: give it join and leave")
        warnings.warn(
            f"drafter {self.name}: begin(rows, verifier) is join(rows, verifier) now, and "
            "leave(rows) says whose texts are at an end; the old name works for one release",
            DeprecationWarning,
            stacklevel=2,
        )
        self._has_begun = True
        begin(rows, verifier)

    def leave(self, rows: Sequence[Row]) -> None:
        if not self._has_begun:
            self.own.leave(rows)

    def propose(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        trees = self.own.propose(rows, limits)
        if not isinstance(trees, (list, tuple)) or len(trees) != len(rows):
            count = f" of {len(trees)}" if isinstance(trees, (list, tuple)) else ""
            raise self._wrong(
                f"returned a {type(trees).__name__}{count} for {len(rows)} rows: give a list with "
                "one TokenTree a row, TokenTree.root(row.tokens[-1]) where it has no drafts"
            )
        return [self._checked(tree, row) for tree, row in zip(trees, rows, strict=True)]

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        self.own.observe(rows, trees, verdicts)

    def foretell(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree] | None:
        trees = self._told("foretell", super().foretell)(rows, limits)
        if trees is None:
            return None
        return [self._checked(tree, row) for tree, row in zip(trees, rows, strict=True)]

    def inner_stats(self, row: Row) -> dict[str, Stats]:
        found: dict[str, Stats] = self._told("inner_stats", super().inner_stats)(row)
        return found

    def reads(self, row: Row) -> dict[str, ReadStats]:
        found: dict[str, ReadStats] = self._told("reads", super().reads)(row)
        return found

    def explain(self) -> list[str]:
        return list(self._told("explain", super().explain)())

    def _checked(self, tree: TokenTree, row: Row) -> TokenTree:
        """The tree with whole tokens and proposers, or an error that says what is wrong with it."""
        if not isinstance(tree, TokenTree):
            raise self._wrong(f"returned a {type(tree).__name__} for row {row.index}, no TokenTree")
        try:
            tokens = [index(token) for token in tree.tokens]
        except TypeError:
            raise self._wrong(f"drafted {tree.tokens!r}, which are no token ids") from None
        if tokens[:1] != row.tokens[-1:]:
            raise self._wrong(
                f"returned a tree over {tokens[:1]} for row {row.index}: its node 0 must be "
                f"row.tokens[-1], which is {row.tokens[-1]}"
            )
        if not all(0 <= token < self.vocab_size for token in tokens):
            raise self._wrong(f"drafted {tokens}: token ids end at {self.vocab_size - 1}")
        lengths = {len(tokens), len(tree.parents), len(tree.laws), len(tree.proposers)}
        if len(lengths) > 1:
            raise self._wrong("returned a tree whose lists differ in length: use TokenTree.add")
        above = tree.parents[1:]
        if tree.parents[0] != -1 or not all(0 <= p < i for i, p in enumerate(above, start=1)):
            raise self._wrong(f"returned the parents {tree.parents}: each must come before its own")
        for parent, law in zip(above, tree.laws[1:], strict=True):
            probs = tree.draft_probs.get(parent)
            shape = None if probs is None else tuple(probs.shape)
            if law is not Law.POINT and shape != (self.vocab_size,):
                raise self._wrong(
                    f"drew children of node {parent}, whose draft_probs are {shape or 'missing'}: "
                    f"give the law of all {self.vocab_size} tokens"
                )
        return replace(tree, tokens=tokens, proposers=[who or self.name for who in tree.proposers])

    def _wrong(self, what: str) -> InvalidArgument:
        return InvalidArgument(f"drafter {self.name} {what}")


def _missing(given: Any) -> list[str]:
    if all(callable(getattr(given, name, None)) for name in _BEFORE):
        return []
    return [name for name in _METHODS if not callable(getattr(given, name, None))]


def _name_of(given: Any) -> str:
    return str(getattr(given, "__name__", type(given).__name__))
