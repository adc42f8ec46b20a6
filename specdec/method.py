"""Method: a drafter or a view as a frozen dataclass, whose fields are its options.

Defaults, help and checks of options stand here and nowhere else: the keywords of a call, the
command line and the adapter are made of them. So files of methods are light: what they are made of
is imported when it is made (`tests/house/test_methods.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from inspect import get_annotations
from typing import Any, ClassVar, NamedTuple, TypeVar

from specdec.option_kinds import Kind

M = TypeVar("M", bound="Method")


class Option(NamedTuple):
    """One option of a method. default None: the method chooses, and its help says how."""

    name: str
    default: Any
    help: str
    kind: Kind

    @property
    def shown(self) -> str:
        """The default, as help shows it; empty where the method chooses."""
        if self.default is None:
            return ""
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default)) or "none"
        return str(self.default)


def option(default: Any, help: str, kind: Kind) -> Any:
    """A field that is an option, for the body of a `Method`."""
    return field(default=default, metadata={"help": help, "kind": kind})


@dataclass(frozen=True)
class Method:
    """What can be named, with its options. Subclasses are frozen dataclasses.

    A subclass that gives an inherited option another default keeps its help and kind, as in
    `sink: int = 4`. None stands for the default.

    needs_documents: it can do nothing in a call without saved documents.
    Of a KV method, for lists: paper, an arXiv id, or a few words where there is none; family, what
    kind of method it is; keeps, what a pass reads, or what is kept beside the cache.
    """

    paper: ClassVar[str] = ""
    family: ClassVar[str] = ""
    keeps: ClassVar[str] = ""
    needs_documents: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        inherited = {n: f for base in reversed(cls.__mro__[1:]) for n, f in _fields(base).items()}
        for name in get_annotations(cls).keys() & inherited.keys() & vars(cls).keys():
            if not hasattr(vars(cls)[name], "metadata"):
                setattr(cls, name, option(vars(cls)[name], **inherited[name].metadata))

    def __post_init__(self) -> None:
        from specdec.plain import plain

        for name, one in self.options().items():
            value = getattr(self, name)
            if value is None:
                value = one.default
            elif value is not one.default:
                value = one.kind.check(name, plain(value))
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Raise InvalidArgument for options that contradict each other."""

    @classmethod
    def options(cls) -> dict[str, Option]:
        """Its options by name, in the order of the fields."""
        return {f.name: Option(f.name, f.default, **f.metadata) for f in fields(cls) if f.metadata}

    @classmethod
    def given(cls: type[M], options: Mapping[str, Any], **others: Any) -> M:
        """One with those of some options that it has a use for."""
        mine = cls.options()
        return cls(**others, **{name: v for name, v in options.items() if name in mine})

    def resolved(self: M, target: Any, tokenizer: Any) -> M:
        """The same, where options name what has to be looked up or measured on this model.

        Called once a call of `generate`, before anything else. tokenizer: or None.
        """
        return self

    def with_documents(self: M, documents: Any) -> M:
        """The same, for a call with these `offload.saved_documents.SavedDocuments`."""
        return self


def _fields(cls: type) -> Mapping[str, Any]:
    return getattr(cls, "__dataclass_fields__", {})


@dataclass(frozen=True)
class ViewMethod(Method):
    """A view by name. It drafts, too: `drafts.methods.self_draft`."""

    def view(self, target: Any) -> Any:
        """The view for a target (`forward.forward_pass.View`)."""
        raise NotImplementedError


@dataclass(frozen=True)
class DrafterMethod(Method):
    """A drafter by name.

    path: of its class, `module:attribute`, which is made of the target and the method as its
    options. needs_model: it cannot do without the option draft_model. own_format: its draft_model
    is no causal LM, and it loads that by itself.
    """

    path: ClassVar[str] = ""
    needs_model: ClassVar[bool] = False
    own_format: ClassVar[bool] = False

    def drafter(self, target: Any) -> Any:
        """The drafter for one call (`decoding.drafter.Drafter`).

        An option draft_model is a Target by now, unless the method is one of an own format.
        """
        module, name = self.path.split(":")
        return getattr(import_module(module), name)(target, self)
