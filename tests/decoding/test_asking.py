"""A draft never fails a call that plain decoding survives."""

from __future__ import annotations

import pytest
import torch
import transformers as t

from specdec import Engine, Law, TokenTree
from specdec.decoding.drafter import Reach
from specdec.forward.rotation import Rotation
from specdec.model.target import Target

from helpers import contract, hostile, models

SMALL = 34  # ids that the draft model knows, of 40
END = 9
# row 0 is fit for every drafter, row 1 holds ids that the draft model does not know
PROMPTS = [[1, 2, 3, 1, 2], [1, 38, 2], [3, 4] * 4]
SAMPLED = {"temperature": 1.5, "seed": 3}
HOWS = [{}, {**SAMPLED, "acceptance": "rejection"}]


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


@pytest.fixture(scope="module")
def small():
    """A draft model with fewer ids than its target."""
    return Target(models.build("llama", vocab_size=SMALL, hidden_size=16))


@pytest.fixture(scope="module")
def short():
    """A draft model with a table of 16 positions."""
    torch.manual_seed(0)
    config = t.GPT2Config(
        vocab_size=models.VOCAB, n_positions=16, n_embd=16, n_layer=1, n_head=2,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return Target(t.GPT2LMHeadModel(config).double().eval())


DRAFTERS = {
    "model": {"drafter": "model", "draft_width": 2},
    "ngram+model": {"drafter": "ngram+model", "min_ngram": 1},
    "cascade": {"drafter": "cascade", "min_ngram": 1},
    "triforce": {"drafter": "triforce", "budget": 16},
    "whim": {"drafter": contract.whimsical, "num_draft_tokens": 5, "min_ngram": 1},
}


def ids(generations):
    return [g.token_ids for g in generations]


@pytest.mark.parametrize("how", [{}, {**SAMPLED, "num_return_sequences": 2}])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_ids_that_the_draft_model_does_not_know(engine, small, drafter, how):
    """In the prompt, and in the text from some token on."""
    want = engine.generate(PROMPTS, drafter="none", max_new_tokens=9, **how)
    assert any(max(text) >= SMALL for text in ids(want))
    options = {**DRAFTERS[drafter], "draft_model": small}
    found = engine.generate(PROMPTS, max_new_tokens=9, **how, **options)
    assert ids(found) == ids(want)
    n = how.get("num_return_sequences", 1)
    if drafter in ("model", "cascade"):
        for g in found[n : 2 * n]:
            (reason,) = g.stats.unasked
            assert f"beyond its {SMALL}" in reason or "could not take the prompt" in reason
            assert g.stats.num_draft_tokens == 0
        assert any(g.stats.num_draft_tokens for g in found)
        assert found[n].stats.to_dict()["unasked"] == dict(found[n].stats.unasked)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_the_same_under_rejection(engine, small, drafter):
    options = {**DRAFTERS[drafter], "draft_model": small}
    found = engine.generate(PROMPTS, max_new_tokens=9, acceptance="rejection", **SAMPLED, **options)
    assert [len(g.token_ids) for g in found] == [9, 9, 9]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_processor_that_forces_an_unknown_id(engine, small, drafter, how):
    """A draft model may then draft an id that it cannot read itself."""

    class Forcing:
        stateless = True

        def __call__(self, input_ids, scores):
            if input_ids.shape[1] % 4:
                return scores
            forced = torch.full_like(scores, -torch.inf)
            forced[:, 38] = 0.0
            return forced

    how = {**how, "max_new_tokens": 10, "logits_processor": [Forcing()]}
    found = engine.generate([1, 2], draft_model=small, **how, **DRAFTERS[drafter])
    if how.get("acceptance") != "rejection":
        assert found.token_ids == engine.generate([1, 2], drafter="none", **how).token_ids
    assert found.token_ids.count(38) >= 2


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_texts_beyond_the_draft_model_s_positions(engine, short, drafter, how):
    prompts = [[1, 2, 3], [5] * 14, [6] * 15, [7] * 16, [8] * 17, [3, 4] * 14]
    found = engine.generate(
        prompts, max_new_tokens=5, draft_model=short, **how, **DRAFTERS[drafter]
    )
    if how.get("acceptance") != "rejection":
        assert ids(found) == ids(engine.generate(prompts, drafter="none", max_new_tokens=5, **how))
    if drafter == "model":
        assert found[0].stats.num_draft_tokens and found[3].stats.num_draft_tokens
        assert not found[4].stats.num_draft_tokens
        assert "16 positions" in next(iter(found[3].stats.unasked))


def nothing_follows(_, tokens):
    """What may come next; of a text that has ended, nothing, which transformers raises for."""
    tokens = tokens.tolist()
    if END in tokens:
        return []
    return [END, 1, 2] if len(tokens) > 6 else [1, 2]


class Overshooting(hostile.Hostile):
    """Drafts past the end, as a chain and beside a drawn node, so that `traversal` sees it."""

    name = "overshooting"

    def tree(self, row, limit):
        tree = TokenTree.chain(row.tokens[-1], [1, END, 2, 1][:limit], self.name)
        if row.sampler.draws and limit > 1:
            probs = torch.full((models.VOCAB,), 1 / models.VOCAB, dtype=torch.float64)
            tree.draft_probs[0] = tree.draft_probs[1] = probs
            node = tree.add(0, END, Law.DRAW, self.name)
            tree.add(node, 2, Law.POINT, self.name)
            tree.add(1, self.rng.randrange(models.VOCAB), Law.DRAW, self.name)
        return tree


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("drafter", [*DRAFTERS, "ngram", "streaming", Overshooting])
def test_nobody_looks_behind_an_end(engine, drafter, how):
    allowed = t.PrefixConstrainedLogitsProcessor(nothing_follows, 1)
    how = {**how, "max_new_tokens": 16, "eos_token_id": END, "logits_processor": [allowed]}
    options = DRAFTERS.get(drafter, {"drafter": drafter})
    if drafter in DRAFTERS:
        options = {**options, "draft_model": models.disturbed(engine.model, 0.02)}
    prompts = [[1, 2, 1], [2, 2, 1, 1, 2]]
    found = engine.generate(prompts, **how, **options)
    for g in found:
        assert END not in g.token_ids[:-1]
    if how.get("acceptance") != "rejection":
        assert ids(found) == ids(engine.generate(prompts, drafter="none", **how))


class Grammar:
    """7 is not allowed, and a text with it is none at all."""

    stateless = True

    def __call__(self, input_ids, scores):
        if (input_ids[0] == 7).any():
            raise KeyError("7 is not in the grammar")
        scores = scores.clone()
        scores[:, 7] = -torch.inf
        return scores


class Forbidden(Overshooting):
    """Drafts what is not allowed, with nodes below it, beside what was drawn."""

    name = "forbidden"

    def tree(self, row, limit):
        tree = super().tree(row, limit)
        if limit > 1:
            node = tree.add(0, 7, Law.POINT, self.name)
            tree.add(node, 3, Law.POINT, self.name)
        return tree


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("drafter", [*DRAFTERS, Forbidden])
def test_a_processor_that_cannot_be_asked_about_a_draft(engine, small, drafter, how):
    """It raises for paths that the text never takes: their drafts are left out, and said so."""
    how = {**how, "max_new_tokens": 9, "logits_processor": [Grammar()]}
    options = DRAFTERS.get(drafter, {"drafter": drafter})
    if drafter in DRAFTERS:
        options = {**options, "draft_model": small}
    found = engine.generate(PROMPTS, **how, **options)
    assert all(7 not in g.token_ids and len(g.token_ids) == 9 for g in found)
    if how.get("acceptance") != "rejection":
        assert ids(found) == ids(engine.generate(PROMPTS, drafter="none", **how))


def refusing(tokens_of):
    """A processor that knows one text, and raises for every other."""

    class Refusing:
        stateless = True

        def __call__(self, input_ids, scores):
            seen = input_ids[0].tolist()
            if not any(text[: len(seen)] == seen for text in tokens_of):
                raise RuntimeError(f"never heard of {seen}")
            return scores

    return Refusing()


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_processor_that_knows_one_text_only(engine, drafter):
    how = {**SAMPLED, "max_new_tokens": 9}
    want = engine.generate(PROMPTS, drafter="none", **how)
    texts = [p + g.token_ids for p, g in zip(PROMPTS, want)]
    draft = models.disturbed(engine.model, 0.05)
    options = {**DRAFTERS[drafter], "draft_model": draft, "logits_processor": [refusing(texts)]}
    found = engine.generate(PROMPTS, **how, **options)
    assert ids(found) == ids(want)
    if drafter == "model":
        assert any("RuntimeError" in reason for g in found for reason in g.stats.unasked)


@pytest.mark.parametrize("acceptance", ["coupled", "rejection"])
@pytest.mark.parametrize("drafter", ["none", "model", "cascade", Forbidden])
def test_what_plain_decoding_does_not_survive_is_raised_as_it_is(engine, drafter, acceptance):
    def failing(input_ids, scores):
        if input_ids.shape[1] > 5:
            raise ZeroDivisionError("on purpose")
        return scores

    failing.stateless = True
    options = {} if drafter in ("none", Forbidden) else {"draft_model": Target(engine.model)}
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        engine.generate(
            [1, 2, 3], drafter=drafter, acceptance=acceptance, logits_processor=[failing],
            temperature=1.0, seed=1, **options,
        )  # fmt: skip


@pytest.mark.parametrize("drafter", ["model", "cascade"])
def test_a_draft_model_s_own_rotation(engine, drafter):
    """Rows that it turns differently are drafted apart, so that company does not matter."""
    draft = models.disturbed(engine.model, 0.02)
    target = Target(draft)
    target.rotation = Rotation(steps=(9,))
    how = {"max_new_tokens": 10, "acceptance": "rejection", **SAMPLED}
    how |= {"drafter": drafter, "draft_model": target}
    passes, forward = [], target.forward

    def seen(tokens, pass_):
        passes.append((pass_.positions.amax(1) + 1).tolist())
        return forward(tokens, pass_)

    target.forward = seen
    prompts = [[1, 2, 3], [3] * 12, [7, 8, 7, 8, 7]]
    together = ids(engine.generate(prompts, **how))
    assert passes and all(min(p) > 9 or max(p) <= 9 for p in passes)
    assert together == [engine.generate(p, **how).token_ids for p in prompts]


def test_a_drafter_is_shown_the_rows_that_it_can_take(engine):
    calls = []

    class Choosy(hostile.Hostile):
        reach = Reach(vocab_size=30, max_tokens=12)

        def join(self, rows, verifier):
            calls.append([row.index for row in rows])

        def propose(self, rows, limits):
            for row, limit in zip(rows, limits, strict=True):
                assert max(row.tokens) < 30 and len(row.tokens) + limit <= 13
            self.asked = [row.index for row in rows]
            return [TokenTree.chain(row.tokens[-1], [1], self.name) for row in rows]

        def observe(self, rows, trees, verdicts):
            assert [row.index for row in rows] == self.asked

    found = engine.generate(PROMPTS, drafter=Choosy, max_new_tokens=9)
    assert calls == [[0, 2]]
    assert ids(found) == ids(engine.generate(PROMPTS, drafter="none", max_new_tokens=9))
    assert not found[1].stats.num_draft_tokens and found[2].stats.num_draft_tokens


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("value", [torch.nan])
def test_a_draft_model_whose_scores_are_no_numbers(engine, drafter, how, value):
    draft = Target(models.build("llama", hidden_size=16))
    with torch.no_grad():
        draft.model.lm_head.weight.fill_(value)
    how = {**how, "max_new_tokens": 7}
    found = engine.generate(PROMPTS, draft_model=draft, **how, **DRAFTERS[drafter])
    assert [len(g.token_ids) for g in found] == [7, 7, 7]
    if how.get("acceptance") != "rejection":
        assert ids(found) == ids(engine.generate(PROMPTS, drafter="none", **how))


@pytest.mark.parametrize(
    "options",
    [
        {"drafter": "model", "draft_width": 24},
        {"drafter": "model", "draft_width": 24, **HOWS[1]},
        {"drafter": "streaming", "budget": 32, "sink": 2, "recent": 4, "draft_width": 24},
        {"drafter": "streaming", "budget": 32, "draft_nodes": 40, "draft_width": 40},
    ],
)
def test_trees_wider_and_deeper_than_what_can_be_staged(engine, options):
    """Nobody verifies more than 256 nodes, so nobody needs to read more."""
    if options["drafter"] == "model":
        options = {**options, "draft_model": models.disturbed(engine.model, 0.02)}
    prompts, new = [[1, 2, 3], [4] * 9], 32
    found = engine.generate(prompts, max_new_tokens=new, num_draft_tokens=60, **options)
    assert [len(g.token_ids) for g in found] == [new, new]
    if options.get("acceptance") != "rejection":
        assert ids(found) == ids(engine.generate(prompts, drafter="none", max_new_tokens=new))
