"""Drafters of a user's own: as the docs have them, in every form, and doing everything wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from specdec import Engine, Law, TokenTree
from specdec.errors import InvalidArgument

from helpers import hostile, models
from helpers.ids import short

pytestmark = pytest.mark.fast

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending" / "drafter.md"
PROMPT = [1, 2, 3]


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama"))


@pytest.fixture(scope="module")
def plain(engine):
    return engine.generate(PROMPT, drafter="none", max_new_tokens=12).token_ids


class Echo:
    """Drafts the last token again."""

    def join(self, rows, verifier):
        self.seen = 0

    def leave(self, rows): ...

    def propose(self, rows, limits):
        return [
            TokenTree.chain(row.tokens[-1], row.tokens[-1:] * limit)
            for row, limit in zip(rows, limits, strict=True)
        ]

    def observe(self, rows, trees, verdicts):
        self.seen += len(rows)


class Told(Echo):
    """Is told the target and the options."""

    name = "told"

    def __init__(self, target, options):
        self.vocab_size, self.most = target.vocab_size, options.num_draft_tokens

    def propose(self, rows, limits):
        limits = [min(limit, self.most or limit) for limit in limits]
        return super().propose(rows, limits)


def test_the_example_of_the_docs(engine, plain):
    """The page's drafter runs as it stands there, and its text is plain decoding's."""
    (example,) = re.findall(
        r"```python\n(from specdec import TokenTree\n.*?)```", PAGE.read_text("utf-8"), re.S
    )
    assert len(example.splitlines()) <= 16
    names: dict = {}
    exec(example, names)
    out = engine.generate(PROMPT, drafter=names["Echo"], max_new_tokens=len(plain))
    assert out.token_ids == plain and out.drafter == "Echo"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (Echo, "Echo"), (Echo(), "Echo"), (lambda: Echo(), "Echo"), (Told, "told"),
        (lambda target, options: Told(target, options), "told"),
        (lambda target, options=None, width=3: Echo(), "Echo"), (lambda *any: Echo(), "Echo"),
    ],
)  # fmt: skip
def test_every_form_of_a_drafter(engine, plain, given, name):
    for _ in range(2):  # an instance may be used again
        out = engine.generate(PROMPT, drafter=given, max_new_tokens=12)
        assert (out.token_ids, out.drafter) == (plain, name)
        assert out.stats.num_draft_tokens > 0
        assert set(out.stats.choices) <= {name, "plain"} and name in out.stats.choices
    assert not isinstance(given, Echo) or given.seen > 0


def test_options_reach_who_asks_for_them(engine):
    out = engine.generate(PROMPT, drafter=Told, num_draft_tokens=2, max_new_tokens=12)
    assert max(out.stats.drafted) == 2
    for given in (Echo, Echo(), lambda: Echo()):
        with pytest.raises(InvalidArgument, match="is not told num_draft_tokens="):
            engine.generate(PROMPT, drafter=given, num_draft_tokens=2)
        with pytest.raises(InvalidArgument, match="is not told draft_model="):
            engine.generate(PROMPT, drafter=given, draft_model="demo")
        config = GenerationConfig(num_assistant_tokens=3)  # has no use here, as elsewhere
        engine.generate(PROMPT, drafter=given, generation_config=config, max_new_tokens=1)
    assert engine.generate(PROMPT, drafter=Echo, view="streaming", budget=96, max_new_tokens=3)


HALF = {"join": print, "leave": print, "propose": print}


class Two:
    def __init__(self, one):
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "drafter is a int: give a name, an object with join, leave, propose and observe"),
        (["ngram", "model"], "is a list: give a name"),
        (Two, r"drafter Two is called as \(one\)"),
        (lambda a, b, c: Echo(), r"called as \(a, b, c\)"),
        (object, "drafter object has no join, leave, propose, observe|called as"),
        (lambda target, options: None, "has no join, leave, propose, observe"),
        (
            type("Half", (), {"join": print, "leave": print, "propose": print}),
            "drafter Half has no observe",
        ),
        (
            type("Half", (), {"join": print, "leave": print, "propose": print})(),
            "is a Half without observe",
        ),
        (torch.nn.Linear(1, 1), "give the model as draft_model="),
    ],
    ids=short,
)
def test_what_is_no_drafter(engine, given, message):
    with pytest.raises(InvalidArgument, match=message):
        engine.generate(PROMPT, drafter=given)


def proposes(answer):
    """A drafter whose answer is `answer(row)`, or as it stands."""

    class Wrong(Echo):
        def propose(self, rows, limits):
            return [answer(row) for row in rows] if callable(answer) else answer

    return Wrong


def tree(row, tokens=(), **fields):
    made = TokenTree.chain(row.tokens[-1], tokens)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def drawn(row, **probs):
    made = TokenTree.root(row.tokens[-1])
    made.add(0, 3, Law.DRAW)
    made.draft_probs.update({int(node[1:]): law for node, law in probs.items()})
    return made


WRONG = [
    ([], "returned a list of 0 for 1 rows: give a list with one TokenTree a row"),
    (None, "returned a NoneType for 1 rows"), ("ab", "returned a str"), ({}, "returned a dict"),
    ([TokenTree.root(1)] * 2, "a list of 2 for 1 rows"),
    (lambda row: None, "returned a NoneType for row 0, no TokenTree"),
    (lambda row: row.tokens[-1:], "returned a list for row 0"),
    (lambda row: TokenTree.root((row.tokens[-1] + 1) % 40), r"its node 0 must be row.tokens\[-1\]"),
    (lambda row: TokenTree([]), "node 0 must be"),
    (lambda row: tree(row, [40]), "token ids end at 39"),
    (lambda row: tree(row, [-1]), "token ids end at 39"),
    (lambda row: tree(row, [1.0]), "which are no token ids"),
    (lambda row: tree(row, ["a"]), "which are no token ids"),
    (lambda row: tree(row, [1, 2], parents=[-1, 2, 0]), "each must come before its own"),
    (lambda row: tree(row, [1, 2], parents=[-1, -1, 0]), "each must come before its own"),
    (lambda row: tree(row, [1], parents=[0, 0]), "each must come before its own"),
    (lambda row: tree(row, [1], parents=[-1]), "differ in length: use TokenTree.add"),
    (lambda row: tree(row, [1], proposers=[""]), "differ in length"),
    (drawn, "drew children of node 0, whose draft_probs are missing"),
    (lambda row: drawn(row, _0=torch.ones(41) / 41), r"draft_probs are \(41,\)"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "message"), WRONG, ids=short)
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "acceptance": "rejection"}])
def test_what_is_no_proposal(engine, answer, message, settings):
    with pytest.raises(InvalidArgument, match="drafter Wrong .*" + message):
        engine.generate(PROMPT, drafter=proposes(answer), **settings)


def test_a_drafters_own_error_is_passed_on(engine):
    with pytest.raises(ZeroDivisionError):
        engine.generate(PROMPT, drafter=proposes(lambda row: 1 / 0))


def test_tokens_of_numpy(engine, plain):
    """What a drafter looked up in an array is a draft like any other."""

    def known(row):
        done = len(row.tokens) - len(PROMPT)
        return TokenTree.chain(np.int64(row.tokens[-1]), np.array(plain)[done : done + 4])

    out = engine.generate(PROMPT, drafter=proposes(known), max_new_tokens=12)
    assert out.token_ids == plain and out.stats.num_spec_steps < 5
    assert all(type(token) is int for token in out.token_ids)


class Before:
    """As drafters were in the last release."""

    def begin(self, rows, verifier):
        self.met = [row.index for row in rows]

    def propose(self, rows, limits):
        return [TokenTree.chain(row.tokens[-1], [1]) for row in rows]

    def observe(self, rows, trees, verdicts): ...


def test_a_drafter_that_only_begins_works_for_one_release(engine, plain):
    """With a warning, and for rows that all come at once."""
    given = Before()
    with pytest.warns(DeprecationWarning, match=r"drafter Before: begin\(rows, verifier\) is join"):
        out = engine.generate([PROMPT, [5]], drafter=given, max_new_tokens=12)
    assert out[0].token_ids == plain and given.met == [0, 1]
    stream = engine.stream(PROMPT, drafter=Before, max_new_tokens=5)
    with pytest.warns(DeprecationWarning):
        next(stream)
    stream.cancel(0)
    stream.scheduler.add(stream.rows)
    with pytest.raises(InvalidArgument, match="drafter Before has begin, and rows come later"):
        next(stream)


def test_names_of_the_last_release_work_with_a_warning(engine):
    """`wants`, `Wants` and `Row.stable` of drafters that were written for it."""
    with pytest.warns(DeprecationWarning, match="Wants is specdec.forward.plan.Needs now"):
        from specdec.decoding.drafter import Wants
    seen = []

    class Older(hostile.Empty):
        wants = Wants(costs=True)

        def tree(self, row, limit):
            with pytest.warns(DeprecationWarning, match="Row.stable is Row.num_final now"):
                seen.append(row.stable)
            return super().tree(row, limit)

    with pytest.warns(DeprecationWarning, match="the attribute wants is needs now"):
        engine.generate([1, 2, 3], drafter=Older, max_new_tokens=3, eos_token_id=[])
    assert seen == [3, 4, 5]
