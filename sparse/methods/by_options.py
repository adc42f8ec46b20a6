"""by_options: the view of a method, told by a drafter's options."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from specdec.method import ViewMethod

if TYPE_CHECKING:
    from specdec.decoding.options import DraftOptions
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


def view(path: str, target: Target, options: DraftOptions) -> SparseView:
    """That of the method at `path` (file of this room and class) with those options it knows."""
    module, name = path.split(":")
    kind: type[ViewMethod] = getattr(import_module(f"specdec.sparse.methods.{module}"), name)
    known = [option for option in kind.options() if hasattr(options, option)]
    method = kind(**{option: getattr(options, option) for option in known})
    made: SparseView = method.resolved(target, options.tokenizer).view(target)
    return made
