"""TextFirst: tokens of text before those of images (LOOK-M, arXiv 2406.18139)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.importances.importance import Importance
from specdec.sparse.text import Text


@dataclass(frozen=True)
class TextFirst:
    """The paper's text prior: image tokens have a large number taken off their scores by `base`, so
    that text outranks them; text and images keep their orders. Of a text without images it is
    `base`."""

    base: Importance
    page_size = 1

    @property
    def needs(self) -> Needs:
        return self.base.needs

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`."""
        found = self.base.scores(text)
        return None if found is None else text_first(found, text.images)


def text_first(scores: Tensor, images: Tensor) -> Tensor:
    """Scores `[Hkv, S]` moved so that the greatest of `images: bool[S]` is below all others."""
    if not bool(images.any()) or bool(images.all()):
        return scores
    span = scores.max() - scores.min()
    return scores - images.to(scores) * (2 * span + 1)
