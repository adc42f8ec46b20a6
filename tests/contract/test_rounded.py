"""The contract where products are whole numbers: a quantised file, activations in 8 bits.

What is rounded must not depend on who else is in a pass: so here, too, the text is that of plain
decoding token for token, in float32, with ties where there are ties.
"""

from __future__ import annotations

import pytest

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine

from helpers import gguf_models, rounded
from helpers.contract import CONTROLS, DRAFTERS, outcome, plain_of, run
from helpers.matrix import crossed

DRAFTING_VIEWS = ("quest", "snapkv", "streaming", "triforce-chunks")
BUDGET = {"budget": 20, "sink": 2, "recent": 2}
UNPACKED = ("longspec", "specvlm")  # blocks begin with weights of a target that is not packed
EVERYONE = {
    **{name: given for name, given in DRAFTERS.items() if not name.startswith(UNPACKED)},
    **{name: {"drafter": name, **BUDGET} for name in DRAFTING_VIEWS},
}


@pytest.fixture(scope="module")
def engine():
    return rounded.engine()


@crossed(together=1, drafter=EVERYONE, controls=["greedy", "sampled", "penalties"])
def test_same_text(engine, drafter, controls):
    """Greedy and coupled: one ragged batch gives what plain decoding gives row by row."""
    out = run(engine, rounded.draft(), **EVERYONE[drafter], **CONTROLS[controls])
    assert outcome(out) == plain_of(engine)(**CONTROLS[controls])


@pytest.mark.parametrize("shape", [{}, {"draft_tree": "4-8-8-8"}, {"draft_nodes": 12}], ids=str)
def test_same_text_by_a_block(engine, shape):
    """LongSpec, whose untrained block begins with the file's weights as numbers."""
    for controls in ("greedy", "sampled"):
        out = run(engine, drafter=rounded.block(), **shape, **CONTROLS[controls])
        assert outcome(out) == plain_of(engine)(**CONTROLS[controls])


def test_drafts_are_kept_and_refused_there(engine):
    """Otherwise nothing was shown."""
    out = run(engine, rounded.draft(), **DRAFTERS["model"])
    drafted = sum(g.stats.num_draft_tokens for g in out)
    assert 0 < sum(g.stats.num_accepted_draft_tokens for g in out) < drafted


def test_rounds_by_itself_only_where_bits_are_kept(tmp_path, caplog):
    """Layers that are not fused sum in another order in wider passes: float32 does not show it."""
    file = tmp_path / "tiny.gguf"
    gguf_models.write_case(file, "granite", kind="Q8_0")
    engine = Engine.from_pretrained(file, device="cpu")
    assert engine.packing.activations == "float32" and engine.target.shares_text
    assert not caplog.records
    engine = Engine.from_pretrained(file, device="cpu", activations="int8")
    assert engine.packing.activations == "int8" and not engine.target.keeps_bits
    assert "near ties" in caplog.text
