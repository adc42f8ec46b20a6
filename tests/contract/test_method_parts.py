"""What every method keeps and selects: no trace of what was rejected, the same each time, in range.

With tests/sparse, which hold each part to its formula, these are what the literature's methods have
in common. Small models in float64, where nothing is near a tie.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from specdec import Engine
from specdec.decoding.drafter import Drafter
from specdec.decoding.drafting import make_drafter
from specdec.decoding.stream import GenerationStream
from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.forward import attend
from specdec.registry import VIEWS
from specdec.sparse.methods.calibrated import Calibrated

from helpers import hostile, models
from helpers.methods import METHODS, everything, smallest

PROMPT = [(7 * i * i + 3 * i) % models.VOCAB for i in range(100)]
NEW, DEPTH = 16, 4


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


class Noted(Drafter):
    """A drafter, with its trees written down; `wrong`: and with siblings of its nodes grafted on
    that the text does not go through."""

    def __init__(self, inner, text, wrong):
        self.inner, self.text, self.wrong = inner, text, wrong
        self.name, self.needs, self.trees = inner.name, inner.needs, []

    def join(self, rows, verifier):
        self.inner.join(rows, verifier)

    def leave(self, rows):
        self.inner.leave(rows)

    def propose(self, rows, limits):
        (tree,) = self.inner.propose(rows, limits)
        self.trees.append((tree.tokens[:], tree.parents[:]))
        if self.wrong:
            done = len(rows[0].tokens) - rows[0].num_prompt_tokens
            for node, depth in list(enumerate(tree.depths())):
                if node + 1 < len(tree.depths()) and depth < DEPTH:
                    for right in self.text[done + depth : done + depth + 1]:
                        for step in (1, 2, 3):
                            tree.add(node, (right + step) % models.VOCAB, proposer="wrong")
        return [tree]

    def observe(self, rows, trees, verdicts):
        self.inner.observe(rows, trees, verdicts)

    def reads(self, row):
        return self.inner.reads(row)


def drafts(engine, method, wrong, **how):
    """The trees of a method along a text, and what its passes read."""
    text = engine.generate(PROMPT, drafter="none", max_new_tokens=NEW, **how).token_ids
    options = {**smallest(method, engine), **how, "max_new_tokens": NEW}
    if "num_draft_tokens" in VIEWS[method].options:
        options["num_draft_tokens"] = DEPTH
    request = engine._request(PROMPT, None, {"drafter": method, **options})
    noted = Noted(make_drafter(engine.target, request, None), text, wrong)
    (out,) = GenerationStream(engine.target, request, noted).run()
    assert out.token_ids == text
    return noted.trees, out.stats.reads[method]


@pytest.mark.parametrize("method", METHODS)
def test_what_was_rejected_leaves_no_trace(engine, method):
    """Whatever is kept beside the text: after nodes that were verified and taken back a method
    drafts and reads what it does where nobody drafted them; and the same every time."""
    how = {"temperature": 0.9, "seed": 3}
    first, again, beside = (drafts(engine, method, wrong, **how) for wrong in (False, False, True))
    assert first == again
    assert beside == first and len(first[0]) > 3


@contextmanager
def plans_of_passes():
    """What layers read in each pass: `(pass, layer, RowPlan, lengths of the levels)`."""
    seen = []

    def noted(name):
        inner = getattr(attend, name)

        def call(pass_, *args):
            plan = next(x for x in args if hasattr(x, "extras"))
            layer = next((x.layer for x in args if hasattr(x, "layer")), args[1])
            for sequence, row in zip(pass_.sequences, plan.rows or (), strict=False):
                maps = pass_.store.row_maps
                lengths = [
                    int(level.length[maps[at][sequence]])
                    for at, level in enumerate(pass_.store.levels)
                ]
                seen.append((pass_, layer, row, lengths))
            return inner(pass_, *args)

        return patch.object(attend, name, call)

    with noted("host_reads"), noted("_merged"), noted("attend_near"):
        yield seen


def tokens_of(plan, lengths):
    """For each head the tokens that a plan reads of the committed text, by number."""
    starts = [sum(lengths[:at]) for at in range(len(lengths))]
    always = [
        start + i
        for start, since, length in zip(starts, plan.since, lengths, strict=True)
        for i in range(since, length)
    ]
    if plan.selection is None or plan.selection.pages is None:
        return [always]
    size, found = plan.selection.page_size, []
    for head in plan.selection.pages[:, : plan.count].tolist():
        mine = list(always)
        for page in (page for page in head if page >= 0):
            at = page * size
            level = max(i for i, start in enumerate(starts[: len(plan.since)]) if start <= at)
            last = min(at + size, starts[level] + plan.since[level])
            mine += range(at, last)
        found.append(mine)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_what_is_selected_is_sound(engine, method):
    """Pages are there, and none twice; first and last tokens and the open page are among them; and
    layers and heads read no more than the budget on average."""
    options = smallest(method, engine)
    if "budget" in options:
        options["budget"] = max(64, options["budget"])
    with plans_of_passes() as seen:
        engine.generate(PROMPT, drafter=method, max_new_tokens=NEW, **options)
    counts = {}
    for pass_, _, plan, lengths in seen:
        total, selection = sum(lengths), plan.selection
        if selection is None:
            continue
        assert all(c <= n for c, n in zip(selection.covered, lengths, strict=False))
        for head in tokens_of(plan, lengths):
            assert len(set(head)) == len(head)
            assert not head or 0 <= min(head) <= max(head) < total
            if selection.is_bounded:
                counts.setdefault(id(pass_), []).append(len(head))
            if selection.entries is not None and not plan.count:
                continue  # what is kept has others merged into it: copies
            assert set(range(options.get("sink", 0))) <= set(head)
            assert set(range(total - options.get("recent", 0), total)) <= set(head)
            assert set(range(total - total % selection.page_size, total)) <= set(head)
    for found in counts.values():  # for what came since the widest heads make way first
        assert sum(found) / len(found) <= 1.1 * options["budget"]


def doubled(model):
    """The same model with every query head twice, so that groups have twice as many."""
    config = copy.deepcopy(model.config)
    config.update({"num_attention_heads": 2 * config.num_attention_heads})
    twin = type(model)._from_config(config, dtype=model.dtype, attn_implementation="eager").eval()
    weights, dim = model.state_dict(), config.head_dim
    for name, weight in weights.items():
        if "q_proj" in name:
            weights[name] = weight.unflatten(0, (-1, dim)).repeat_interleave(2, 0).flatten(0, 1)
        if "o_proj" in name:
            weights[name] = weight.unflatten(1, (-1, dim)).repeat_interleave(2, 1).flatten(1) / 2
    twin.load_state_dict(weights)
    return twin


@pytest.fixture(scope="module")
def twins():
    model = models.build("llama-mha")
    both = (model, doubled(model))
    return [Engine(one, hostile.tokenizer(models.VOCAB)) for one in both]


# By noise of a query head, by training on all of them, by a share of them.
BY_QUERY_HEAD = {"keyformer", "locret", "duo", "compresskv"}


@pytest.mark.parametrize("method", [name for name in METHODS if name not in BY_QUERY_HEAD])
def test_groups_of_equal_queries_choose_as_one_query_does(twins, method):
    """One query a KV head, and two that are the same: the same drafts, for the same reads."""
    found = [drafts(engine, method, False) for engine in twins]
    assert found[0] == found[1]


@pytest.mark.parametrize("method", METHODS)
def test_a_text_shorter_than_the_budget_is_read_whole(engine, method):
    """As it is, and the stats say so."""
    how = {"max_new_tokens": 6, "eos_token_id": []}
    out = engine.generate(PROMPT[:30], drafter=method, **everything(method), **how)
    reads = out.stats.reads[method]
    assert reads.passes == reads.full_passes > 0 and reads.bytes == reads.full_bytes
    assert out.token_ids == engine.generate(PROMPT[:30], drafter="none", **how).token_ids


@pytest.mark.parametrize("method", [m for m in METHODS if "budget" in VIEWS[m].options])
def test_a_budget_below_the_fixed_parts_is_refused(engine, method):
    with pytest.raises(InvalidArgument, match="budget=1 "):
        engine.generate(PROMPT, drafter=method, budget=1, max_new_tokens=2)


@pytest.mark.parametrize("method", [m for m in METHODS if issubclass(VIEWS[m].load(), Calibrated)])
def test_a_calibration_of_another_model_is_refused(engine, method, tmp_path):
    file = tmp_path / "file"
    other = Engine(models.build("qwen3"), hostile.tokenizer(models.VOCAB))
    VIEWS[method].method({}).measured(other.target).save(file)
    with pytest.raises(InvalidArgument, match="made for another model"):
        engine.generate(PROMPT, drafter=method, calibration=str(file), max_new_tokens=2)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_a_full_layer_is_refused_or_read_as_it_is(method):
    """There is nothing to leave out where every layer reads a window already."""
    model = models.build("mistral")
    engine = Engine(model, hostile.tokenizer(models.VOCAB))
    how = {"max_new_tokens": 6, "eos_token_id": []}
    try:
        out = engine.generate(PROMPT, drafter=method, **how)
    except (UnsupportedModel, InvalidArgument) as error:
        assert method in str(error) or "window" in str(error)
        return
    assert out.token_ids == engine.generate(PROMPT, drafter="none", **how).token_ids
