"""The contract every drafter signs: the text is that of plain decoding, whatever it proposes.

In float64, where passes of different width agree to twelve digits and no argmax is ever a tie.
"""

from __future__ import annotations

import random
from dataclasses import replace

import hostile
import longspec_models
import models
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specdec import Engine
from specdec.controller import Controller
from specdec.drafts.auto import AutoDrafter

PROMPTS = [[1, 2, 3, 4, 5], [7], [3, 4] * 6, [9, 8, 7, 9, 8, 7, 9]]
NEW = 24


@pytest.fixture(scope="module", params=["llama", "gemma3", "gpt-oss"])
def engine(request):
    return Engine(models.build(request.param), hostile.tokenizer(models.VOCAB))


@pytest.fixture(scope="module")
def llama():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


@pytest.fixture(scope="module")
def draft(engine):
    return models.disturbed(engine.model, 0.03)


class Whim(Controller):
    """Chooses at random among all that is offered, and how much of it."""

    def choose(self, rows, keys, offers):
        plain = super().choose(rows, keys, [])
        self.whims = getattr(self, "whims", None) or random.Random(5)
        plans = [plain]
        for offer in offers:
            if offer.nodes:
                plans.append(replace(plain, name=offer.name, nodes=rows * (1 + offer.nodes)))
            for depth in range(1, offer.depth + 1):
                plans.append(replace(plain, name=offer.name, key=offer.key, depth=depth))
        return self.whims.choice(plans)


def whimsical(target, options):
    """auto, with a controller that does not care for speed."""
    return AutoDrafter(target, options, Whim)


OURS = "the draft model of this test"
DRAFTERS = {
    "auto": {"drafter": "auto"},
    "auto-model": {"drafter": "auto", "draft_model": OURS},
    "auto-whim": {"drafter": whimsical, "min_ngram": 1, "budget": 12, "sink": 2, "recent": 2},
    "auto-whim-model": {
        "drafter": whimsical,
        "draft_model": OURS,
        "min_ngram": 1,
        "num_draft_tokens": 5,
    },
    "ngram": {"drafter": "ngram"},
    "ngram-fixed": {"drafter": "ngram", "num_draft_tokens": 6, "draft_width": 3, "min_ngram": 1},
    "model": {"drafter": "model"},
    "model-long": {"drafter": "model", "num_draft_tokens": 9},
    "model-tree": {"drafter": "model", "draft_width": 3},
    "model-shy": {"drafter": "model", "draft_width": 2, "min_draft_prob": 0.3},
    "ngram+model": {"drafter": "ngram+model"},
    "ngram+model-tree": {"drafter": "ngram+model", "draft_width": 3, "min_ngram": 1},
    "cascade": {"drafter": "cascade"},
    "cascade+ngram": {"drafter": "ngram+cascade", "num_draft_tokens": 7},
    "longspec": {"drafter": longspec_models.untrained},
    "longspec-tree": {"drafter": longspec_models.untrained, "draft_tree": "4-8-8-8"},
    "longspec-nodes": {"drafter": longspec_models.untrained, "draft_nodes": 12},
    "longspec-shy": {
        "drafter": longspec_models.untrained,
        "num_draft_tokens": 9,
        "min_draft_prob": 0.1,
    },
    "kivi": {"drafter": "kivi", "kv_group": 32, "recent": 0},
    **{kind.__name__: {"drafter": kind} for kind in hostile.HOSTILE},
}

CONTROLS = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "seed": 3},
    "hot": {"temperature": 1.7, "seed": 4},
    "do_sample": {"do_sample": True, "seed": 5},
    "top_k": {"temperature": 1.0, "top_k": 5, "seed": 6},
    "top_p": {"temperature": 1.0, "top_p": 0.7, "seed": 7},
    "min_p": {"temperature": 1.0, "min_p": 0.2, "seed": 8},
    "typical_p": {"temperature": 1.0, "typical_p": 0.6, "seed": 9},
    "cutoffs": {"temperature": 1.0, "epsilon_cutoff": 0.02, "eta_cutoff": 0.02, "seed": 9},
    "penalties": {
        "temperature": 0.8, "seed": 10, "repetition_penalty": 1.4, "frequency_penalty": 0.4,
        "presence_penalty": 0.3,
    },
    "greedy-penalty": {"repetition_penalty": 1.5},
    "no_repeat": {"no_repeat_ngram_size": 2},
    "bans": {"bad_words_ids": [[3], [5, 6]], "suppress_tokens": [11], "logit_bias": {4: 2.5}},
    "sequence_bias": {"sequence_bias": [[[3], 2.0], [[1, 2], -4.0]]},
    "min_new_tokens": {"min_new_tokens": 9, "eos_token_id": [2, 9, 17, 21]},
    "eos": {"eos_token_id": [2, 9], "temperature": 1.0, "seed": 11},
}  # fmt: skip


EVERYWHERE = {"greedy", "sampled", "penalties", "eos"}


def run(engine, draft=None, **kwargs):
    name = kwargs.get("drafter")
    named = isinstance(name, str) and ("model" in name or "cascade" in name)
    if named or kwargs.get("draft_model") == OURS:
        kwargs["draft_model"] = draft
    return engine.generate(PROMPTS, **{"max_new_tokens": NEW, **kwargs})


def outcome(generations):
    return [(g.token_ids, g.finish_reason, g.text) for g in generations]


@pytest.fixture(scope="module")
def plain(engine):
    """Plain decoding, row by row: the reference."""
    known = {}

    def reference(**kwargs):
        key = repr(sorted(kwargs.items(), key=str))
        if key not in known:
            one = {"max_new_tokens": NEW, **kwargs, "drafter": "none"}
            known[key] = outcome([engine.generate(p, **one) for p in PROMPTS])
        return known[key]

    return reference


@pytest.mark.parametrize("controls", sorted(EVERYWHERE))
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_same_text(engine, draft, plain, drafter, controls):
    """Greedy and coupled: one ragged batch gives what plain decoding gives row by row."""
    kwargs = CONTROLS[controls]
    out = run(engine, draft, **DRAFTERS[drafter], **kwargs)
    assert outcome(out) == plain(**kwargs)
    assert all(g.lossless and len(g.token_ids) <= NEW for g in out)


@pytest.mark.parametrize("controls", [name for name in CONTROLS if name not in EVERYWHERE])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_same_text_under_every_control(llama, drafter, controls):
    """The other sampling controls; they do not meet the architecture, so one will do."""
    kwargs = {"max_new_tokens": NEW, **CONTROLS[controls]}
    want = llama.generate(PROMPTS, drafter="none", **kwargs)
    out = run(llama, models.disturbed(llama.model, 0.03), **DRAFTERS[drafter], **kwargs)
    assert outcome(out) == outcome(want)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_rejection_is_exact_at_temperature_zero(engine, draft, plain, drafter):
    out = run(engine, draft, **DRAFTERS[drafter], acceptance="rejection")
    assert outcome(out) == plain()


DRAWING = ("model", "casc", "whim", "longspec", "kivi")  # names of those that draw drafts at random


@pytest.mark.parametrize("drafter", [d for d in DRAFTERS if not any(x in d for x in DRAWING)])
def test_deterministic_drafts_keep_the_seed_under_rejection(engine, plain, drafter):
    """A draft that was not drawn is verified by the walk, which is a plain step per token."""
    kwargs = {"temperature": 0.9, "seed": 3}
    out = run(engine, **DRAFTERS[drafter], acceptance="rejection", **kwargs)
    assert outcome(out) == plain(**kwargs)


SAMPLED = ["model", "model-tree", "ngram+model-tree", "cascade"]
SAMPLED += ["longspec", "longspec-tree", "longspec-nodes", "kivi"]


@pytest.mark.parametrize("drafter", SAMPLED)
def test_rejection_is_reproducible_and_obeys_limits(engine, draft, drafter):
    kwargs = {**DRAFTERS[drafter], "acceptance": "rejection", "temperature": 1.0, "eos_token_id": 2}
    first = run(engine, draft, **kwargs, seed=1)
    assert outcome(first) == outcome(run(engine, draft, **kwargs, seed=1))
    assert outcome(first) != outcome(run(engine, draft, **kwargs, seed=2))
    for g in first:
        assert len(g.token_ids) == NEW or g.token_ids[-1] == 2
        assert 2 not in g.token_ids[:-1]


@pytest.mark.parametrize("wrong_every", [0, 1, 2, 5])
@pytest.mark.parametrize("new", [1, 2, 3, 7, NEW])
def test_drafts_of_the_true_text(llama, wrong_every, new):
    """Always right, always wrong and in between, with drafts that go past every limit."""
    truth = [llama.generate(p, drafter="none", max_new_tokens=new) for p in PROMPTS]
    texts = [g.token_ids for g in truth]
    out = run(llama, drafter=hostile.replay(texts, wrong_every), max_new_tokens=new)
    assert outcome(out) == outcome(truth)
    if wrong_every == 0:
        assert all(g.stats.num_spec_steps == 1 for g in out)


@pytest.mark.parametrize("place", range(8))
def test_end_token_inside_an_accepted_block(llama, place):
    """Drafts run over the end; the text stops where plain decoding stops, and so does the count."""
    truth = llama.generate(PROMPTS[0], drafter="none", max_new_tokens=NEW, temperature=1.0, seed=2)
    eos = truth.token_ids[place]
    kwargs = {"max_new_tokens": NEW, "temperature": 1.0, "seed": 2, "eos_token_id": eos}
    plain = llama.generate(PROMPTS[0], drafter="none", **kwargs)
    out = llama.generate(PROMPTS[0], drafter=hostile.replay([truth.token_ids]), **kwargs)
    assert outcome([out]) == outcome([plain])
    assert out.finish_reason == "stop" and out.token_ids[-1] == eos
    assert out.stats.num_tokens == len(out.token_ids)


@pytest.mark.parametrize("stop", ["one", "spanning", "several"])
def test_stop_strings_inside_an_accepted_block(llama, stop):
    truth = llama.generate(PROMPTS[0], drafter="none", max_new_tokens=NEW, temperature=1.0, seed=2)
    text = truth.text
    strings = {"one": text[10:12], "spanning": text[13:18], "several": ["qqq", text[9:12]]}[stop]
    kwargs = {"max_new_tokens": NEW, "temperature": 1.0, "seed": 2, "stop": strings}
    plain = llama.generate(PROMPTS[0], drafter="none", **kwargs)
    found = strings if isinstance(strings, str) else strings[1]
    assert plain.text == text[: text.index(found)]
    stream = llama.stream(PROMPTS[0], drafter=hostile.replay([truth.token_ids]), **kwargs)
    shown = "".join(step.text for step in stream)
    assert outcome(stream.generations) == outcome([plain])
    assert shown == plain.text


class Alternating:
    """A processor with state: bans even and odd tokens in turn, and counts its calls."""

    def __init__(self):
        self.calls = 0
        self.lengths = []

    def __call__(self, input_ids, scores):
        self.lengths.append(input_ids.shape[1])
        scores = scores.clone()
        scores[:, self.calls % 2 :: 2] = -torch.inf
        self.calls += 1
        return scores


@pytest.mark.parametrize("acceptance", ["coupled", "rejection"])
@pytest.mark.parametrize(
    "drafter", ["RandomTrees", "model", "model-tree", "cascade", "longspec", "longspec-nodes"]
)
def test_processor_with_state(engine, draft, drafter, acceptance):
    """Each token is shaped by the state that plain decoding would have there."""
    kwargs = {"temperature": 1.0, "seed": 5, "logits_processor": [Alternating()]}
    out = run(engine, draft, **DRAFTERS[drafter], acceptance=acceptance, **kwargs)
    for g in out:
        assert [t % 2 for t in g.token_ids] == [1, 0] * (NEW // 2)
    assert kwargs["logits_processor"][0].calls == 0  # the user's own object is left alone


def test_processor_sees_the_calls_of_plain_decoding(llama):
    """Once per token, in order, one token more each time - under the default rule."""
    seen = []

    class Witness(Alternating):
        def fork(self):
            seen.append(Witness())
            return seen[-1]

    llama.generate(
        PROMPTS[0], drafter=hostile.Bushy, logits_processor=[Witness()], max_new_tokens=9
    )
    lengths = [length for witness in seen for length in witness.lengths]
    assert lengths == list(range(len(PROMPTS[0]), len(PROMPTS[0]) + 9))


@pytest.mark.parametrize("drafter", ["none", "ngram", "Bushy"])
def test_stopping_criteria_are_asked_after_every_token(llama, drafter):
    truth = llama.generate(PROMPTS[0], drafter="none", max_new_tokens=NEW)

    def criterion(input_ids, scores):
        return input_ids.shape[1] >= len(PROMPTS[0]) + 5

    name = drafter if drafter != "Bushy" else hostile.Bushy
    out = llama.generate(
        PROMPTS[0], drafter=name, max_new_tokens=NEW, stopping_criteria=[criterion]
    )
    assert out.token_ids == truth.token_ids[:5] and out.finish_reason == "stop"


def test_seeded_text_depends_on_nothing_else(llama):
    """Not on the batch, the number of samples, nor on what ran before."""
    kwargs = {"temperature": 1.0, "seed": 12, "max_new_tokens": 12, "drafter": "ngram"}
    alone = llama.generate(PROMPTS[2], **kwargs).token_ids
    batch = llama.generate(PROMPTS, **kwargs)
    samples = llama.generate(PROMPTS[2], num_return_sequences=3, **kwargs)
    both = llama.generate([PROMPTS[0], PROMPTS[2]], num_return_sequences=2, **kwargs)
    assert alone == batch[2].token_ids == samples[0].token_ids == both[2].token_ids
    assert samples[1].token_ids == both[3].token_ids != alone
    assert [(g.prompt_index, g.sample_index) for g in both] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_unseeded_sampling_follows_torch(llama):
    kwargs = {"temperature": 1.0, "max_new_tokens": 6}
    torch.manual_seed(1)
    first = llama.generate(PROMPTS[0], **kwargs)
    other = llama.generate(PROMPTS[0], **kwargs)
    torch.manual_seed(1)
    assert first.token_ids == llama.generate(PROMPTS[0], **kwargs).token_ids
    assert first.seed != other.seed
    again = llama.generate(PROMPTS[0], seed=first.seed, **kwargs)
    assert again.token_ids == first.token_ids


def test_stream_gives_what_generate_gives(llama):
    kwargs = {"max_new_tokens": 15, "drafter": hostile.Bushy}
    steps = list(stream := llama.stream(PROMPTS, **kwargs))
    for i, g in enumerate(stream.generations):
        mine = [s for s in steps if s.row == i]
        assert [t for s in mine for t in s.token_ids] == g.token_ids
        assert "".join(s.text for s in mine) == g.text
        assert [s.finish_reason for s in mine] == [None] * (len(mine) - 1) + ["length"]
        assert all(len(s.sources) == len(s.token_ids) == len(s.pieces) for s in mine)
        sources = [source for s in mine for source in s.sources]
        assert sources.count("hostile") == g.stats.num_accepted_draft_tokens
    assert outcome(stream.generations) == outcome(llama.generate(PROMPTS, **kwargs))


def test_stats_add_up(llama):
    for g in run(llama, drafter=hostile.RandomTrees):
        stats = g.stats.to_dict()
        assert stats["num_tokens"] == len(g.token_ids) == NEW
        assert sum(stats["acceptance_histogram"]) == stats["num_spec_steps"]
        weighted = sum(i * n for i, n in enumerate(stats["acceptance_histogram"]))
        assert weighted == stats["num_accepted_draft_tokens"] <= stats["num_draft_tokens"]
        assert stats["mean_acceptance_length"] == NEW / stats["num_spec_steps"]
        assert stats["decode_s"] >= stats["draft_s"] + stats["verify_s"] - 1e-9
        assert all(0 <= rate <= 1 for rate in stats["acceptance_rate_per_position"])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_mixture(llama, data):
    """Random prompts, controls, drafters and batch shapes."""
    prompts = data.draw(
        st.lists(
            st.lists(st.integers(0, models.VOCAB - 1), min_size=1, max_size=20),
            min_size=1,
            max_size=4,
        )
    )
    kwargs = {"max_new_tokens": data.draw(st.integers(1, 20))}
    if data.draw(st.booleans()):
        kwargs |= {"temperature": data.draw(st.floats(0.2, 2.0)), "seed": data.draw(st.integers(0))}
        kwargs["seed"] %= 1 << 64
        kwargs["top_p"] = data.draw(st.sampled_from([None, 0.5, 0.9]))
    kwargs["repetition_penalty"] = data.draw(st.sampled_from([None, 1.2]))
    kwargs["eos_token_id"] = data.draw(st.lists(st.integers(0, models.VOCAB - 1), max_size=3))
    drafter = data.draw(st.sampled_from([*hostile.HOSTILE, "ngram"]))
    want = [llama.generate(p, drafter="none", **kwargs) for p in prompts]
    assert outcome(llama.generate(prompts, drafter=drafter, **kwargs)) == outcome(want)


@pytest.mark.parametrize("name", ["mistral", "qwen2", "phi3", "qwen3-moe"])
def test_the_default_drafter_suits_every_architecture(name):
    """Also where a candidate of `auto` does not: it does without that one."""
    engine = Engine(models.build(name))
    prompt, kwargs = [3, 4, 5] * 20, {"max_new_tokens": 12, "eos_token_id": []}
    plain = engine.generate(prompt, drafter="none", **kwargs)
    out = engine.generate(prompt, **kwargs)
    assert out.drafter == "auto" and out.token_ids == plain.token_ids
    assert sum(out.stats.choices.values()) == out.stats.num_spec_steps == len(out.stats.steps)
