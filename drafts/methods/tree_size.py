"""TreeSize, PathBound and GrownTree: the options that drafters share, about how much is drafted."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.errors import InvalidArgument
from specdec.method import DrafterMethod, option
from specdec.option_kinds import Levels, Number, Whole


@dataclass(frozen=True)
class TreeSize(DrafterMethod):
    """How deep drafts are, and how wide."""

    num_draft_tokens: int | None = option(
        None, "Depth of the deepest draft token of a round, without the bonus token; by default "
        "the drafter's choice.", Whole(),
    )  # fmt: skip
    draft_width: int | None = option(
        None, "Nodes of each level of the tree; 1 drafts a chain, which is the default of most.",
        Whole(),
    )  # fmt: skip


@dataclass(frozen=True)
class PathBound(DrafterMethod):
    """Where a model stops drafting."""

    min_draft_prob: float | None = option(
        None, "Stop drafting where a path is less likely; default 0, for chains of a trained block "
        "0.35.", Number(0.0, 1.0, closed=False),
    )  # fmt: skip


@dataclass(frozen=True)
class GrownTree(PathBound, TreeSize):
    """Trees that a model grows level by level."""

    draft_tree: tuple[int, ...] | str | None = option(
        None, "Nodes of each level of the tree instead, as in 4-16-16-16-16.", Levels()
    )
    draft_nodes: int | None = option(
        None, "Nodes of the tree at most, its root included: those of the most probable paths.",
        Whole(),
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        if self.draft_tree is not None and self.draft_width is not None:
            raise InvalidArgument("draft_width and draft_tree exclude each other: give one")

    @property
    def levels(self) -> tuple[int, ...]:
        """`draft_tree` as numbers; empty if it is not given."""
        assert not isinstance(self.draft_tree, str)
        return self.draft_tree or ()
