"""Coded: the options that views share which read a copy of the cache in another form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specdec.method import ViewMethod, option
from specdec.option_kinds import Tokens

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.codec import Codec
    from specdec.sparse.codecs.coded_view import CodedView


@dataclass(frozen=True)
class Coded(ViewMethod):
    """The copy holds what the target has committed, but for the last tokens."""

    family = "codec"

    recent: int = option(128, "Last tokens that are read as they are.", Tokens())

    def coded(
        self,
        name: str,
        target: Target,
        codec: Codec,
        groups: Mapping[int, tuple[int, ...]] | None = None,
        **more: Any,
    ) -> CodedView:
        """A view of a copy. groups: layers by layer that are encoded together, by default each by
        itself; more: what else a `CodedView` says. Raises UnsupportedModel where there is nothing
        to keep in another form."""
        from specdec.errors import UnsupportedModel
        from specdec.sparse.codecs.coded_view import CodedView

        if groups is None:
            groups = {layer: (layer,) for layer in target.full_layers}
        if not groups:
            raise UnsupportedModel(
                f"view {name!r} has nothing to keep in another form: every layer of this model "
                "reads a sliding window already"
            )
        return CodedView(name, codec, groups, recent=self.recent, **more)
