"""Prompts as a tree: what is shared, against the set of all their beginnings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from specdec.cache.prompt_layout import stages
from specdec.cache.prompt_tree import branches

TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=7)


def laid_out(texts, least=1, ragged=True, spare=0, kinds=None, unit=1):
    known = dict(enumerate(texts))
    found = branches(known, kinds or dict.fromkeys(known, 0), least)
    lengths = {slot: len(text) for slot, text in known.items()}
    return stages(found, lengths, [len(text) + 5 for text in texts] + [6] * spare, ragged, unit)


def held(plan, texts):
    """What each slot reads, level by level, put together again."""
    rows = [{p.row: texts[p.members[0]][p.start : p.end] for p in stage.pieces} for stage in plan]
    return [
        [t for stage, held in zip(plan, rows, strict=True) for t in held.get(stage.row_map[s], [])]
        for s in range(len(plan[-1].row_map))
    ]


@given(TEXTS, st.booleans(), st.integers(0, 2), st.integers(1, 9))
def test_every_slot_reads_its_own_text(texts, ragged, spare, least):
    plan = laid_out(texts, least, ragged, spare)
    assert held(plan, texts) == texts + [[]] * spare
    for stage in plan:
        sizes = [piece.end - piece.start for piece in stage.pieces]
        assert max(sizes, default=0) <= stage.capacity and stage.rows > max(stage.row_map) >= 0
        assert len({piece.row for piece in stage.pieces}) == len(stage.pieces)
    assert plan[-1].row_map == tuple(range(len(texts) + spare))


@given(TEXTS, st.booleans())
def test_each_beginning_is_read_once(texts, ragged):
    """The number of tokens that are read is that of the trie's."""
    read = sum(p.end - p.start for stage in laid_out(texts, 1, ragged) for p in stage.pieces)
    assert read == len({tuple(text[: i + 1]) for text in texts for i in range(len(text))})


@given(TEXTS, st.booleans(), st.integers(1, 4))
def test_levels_begin_at_whole_units_and_nothing_is_read_twice(texts, ragged, unit):
    """What a branch has beyond its last unit is read once and copied, from who holds it by then."""
    plan, read, at = laid_out(texts, 1, ragged, unit=unit), 0, dict.fromkeys(range(len(texts)), "")
    assert held(plan, texts) == texts
    for i, stage in enumerate(plan):
        for piece in stage.pieces:
            assert not piece.start % unit and (i == len(plan) - 1 or not piece.end % unit)
            leader, start = piece.members[0], max(piece.start, piece.alike)
            if piece.source >= 0:
                assert texts[leader][: piece.alike] == at[piece.source][: piece.alike]
                assert piece.start < piece.alike <= min(len(at[piece.source]), piece.end)
            read += piece.end - start
            at |= {member: texts[member][: piece.end] for member in piece.members}
    assert read == len({tuple(text[: i + 1]) for text in texts for i in range(len(text))})


@given(TEXTS, st.integers(1, 30))
def test_a_branch_saves_what_it_has_to(texts, least):
    known = dict(enumerate(texts))
    for branch in branches(known, dict.fromkeys(known, 0), least):
        whole = {len(texts[slot]) for slot in branch.members} == {branch.end}
        assert branch.saved >= least or whole
        assert len({tuple(texts[slot][: branch.end]) for slot in branch.members}) == 1


def test_a_tree_of_three():
    """A system prompt, two documents, questions under each; one row that shares nothing."""
    system, law, case = [1] * 70, [2] * 80, [3] * 90
    texts = [
        [*system, *law, 4, 5], [*system, *law, 6], [*system, *case, 7], [*system, *case, 8, 8], [9],
    ]  # fmt: skip
    plan = laid_out(texts, 64, ragged=False)
    assert [stage.rows for stage in plan] == [2, 3, 5]
    assert [stage.capacity for stage in plan] == [71, 91, 7]
    assert [stage.row_map for stage in plan[:2]] == [(0, 0, 0, 0, 1), (0, 0, 1, 1, 2)]
    assert plan[1].leaders == [0, 0, 2, 2, 4]


def test_texts_of_unlike_kinds_share_nothing():
    texts = [[1] * 100] * 4
    plan = laid_out(texts, kinds={0: "a", 1: "a", 2: "b", 3: "b"})
    assert [len(stage.pieces) for stage in plan] == [2, 0]
    assert len(laid_out(texts, kinds={0: 0, 1: 1, 2: 2, 3: 3})) == 1
    assert held(plan, texts) == texts
