"""Methods: who drafts in a call and what the model itself reads, each with its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from specdec.decoding.drafter import Drafter
from specdec.errors import InvalidArgument, unknown_name
from specdec.method import DrafterMethod, ViewMethod
from specdec.model.target import Target
from specdec.registry import COMBINED, DRAFTERS, VIEWS, drafter_names


@dataclass(frozen=True)
class Methods:
    """The view and the drafters of a call; no drafters where the user brings one."""

    view: ViewMethod
    drafters: tuple[DrafterMethod, ...] = ()

    @classmethod
    def of(
        cls,
        drafter: str | Callable[..., Any],
        view: str,
        given: Mapping[str, Any],
        has_documents: bool = False,
    ) -> Methods:
        """Those of these names, each with those of the options `given` that it has a use for.

        has_documents: the call has saved documents. Raises InvalidArgument for unknown names, for
        values that are none, for documents that are missing, and for a draft model that is missing
        or that nobody runs.
        """
        names = drafter_names(drafter) if isinstance(drafter, str) else []
        if view not in VIEWS:
            raise unknown_name("view", view, VIEWS)
        methods = cls(
            VIEWS[view].method(given), tuple(DRAFTERS[name].method(given) for name in names)
        )
        if not has_documents:
            methods._check_documents(names, view)
        if isinstance(drafter, str):
            methods._check_draft_model(drafter, given.get("draft_model"))
        return methods

    def _check_documents(self, names: Sequence[str], view: str) -> None:
        named = {f"drafter {name!r}": one for name, one in zip(names, self.drafters, strict=True)}
        for what, method in {**named, f"view {view!r}": self.view}.items():
            if method.needs_documents:
                raise InvalidArgument(
                    f"{what} needs saved_documents=: a list of folders that Engine.save_prompt "
                    "wrote, which stand before the prompt"
                )

    def _check_draft_model(self, names: str, model: Any) -> None:
        if model is None and any(method.needs_model for method in self.drafters):
            raise InvalidArgument(
                f"drafter {names!r} needs draft_model=: a smaller causal LM with the same "
                "token ids, as a folder, hub id, .gguf file or loaded model"
            )
        if model is not None and not any(map(_takes_model, self.drafters)):
            raise InvalidArgument(
                f"drafter {names!r} has no use for draft_model: leave it out, or name a drafter "
                "that has, such as 'ngram+model'"
            )

    @property
    def runs_draft_model(self) -> bool:
        """Whether `draft_model` is for a drafter that runs it as a causal LM.

        Otherwise it is a checkpoint in a format of the drafter's own, which loads it by itself.
        """
        takers = [method for method in self.drafters if _takes_model(method)]
        return not takers or any(not method.own_format for method in takers)

    def resolved(self, target: Target, tokenizer: Any, documents: Any = None) -> Methods:
        """The same for one model, and for saved documents if there are any: see `Method`."""
        drafters = (
            method.resolved(target, tokenizer).with_documents(documents) for method in self.drafters
        )
        view = self.view.resolved(target, tokenizer).with_documents(documents)
        return Methods(view, tuple(drafters))

    def make_drafter(self, target: Target, draft: Target | None) -> Drafter:
        """The drafter for one call; `draft` is the draft model if one is run."""
        parts: list[Drafter] = []
        for method in self.drafters:
            if _takes_model(method) and not (method.own_format and not self.runs_draft_model):
                model = None if method.own_format else draft
                method = replace(method, draft_model=model)  # type: ignore[call-arg]
            parts.append(method.drafter(target))
        if len(parts) == 1:
            return parts[0]
        combined: Drafter = COMBINED.load()(parts)
        return combined


def _takes_model(method: DrafterMethod) -> bool:
    return "draft_model" in method.options()
