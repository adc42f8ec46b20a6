"""Page: tables of a study inside a page of text, between comments that name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from specdec.bench.methods.summary import contexts, lines
from specdec.bench.methods.tables import (
    BEST,
    caption,
    comparison,
    correlations,
    coverage,
    families,
    ranking,
    table,
)

_PART = re.compile(r"(<!-- made: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(page: str, document: Mapping[str, Any]) -> str:
    """The page with what stands between `<!-- made: NAME -->` and `<!-- end -->` made anew.

    Raises KeyError for a name that is none of `parts`.
    """
    made = parts(document)
    return _PART.sub(lambda found: f"{found[1]}\n{made[found[2]]}\n\n{found[4]}", page)


def parts(document: Mapping[str, Any]) -> dict[str, str]:
    """What a page can hold, by name; rankings are of drafts behind the longest context."""
    longest = lines(document, contexts(document)[-1])
    return {
        "caption": caption(document),
        "best per byte": table(ranking(longest, BEST)),
        "best of each family": table(families(longest)),
        "correlations": correlations(lines(document)),
        "table": comparison(document),
        "coverage": coverage(document),
    }
