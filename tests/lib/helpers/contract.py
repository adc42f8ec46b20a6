"""What the contract is tried with: prompts, drafters and generation controls."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

from specdec import Engine, registry
from specdec.control.controller import Controller
from specdec.drafts.auto.drafter import AutoDrafter
from specdec.drafts.methods.auto import AutoOptions
from specdec.sparse.methods.page_budget import PageBudget

from helpers import block_models, hostile, longspec_models, models

PROMPTS = [[1, 2, 3, 4, 5], [7], [3, 4] * 6, [9, 8, 7, 9, 8, 7, 9]]
NEW = 16
ARCHITECTURES = ["llama", "gemma3", "gpt-oss"]


class Whim(Controller):
    """Chooses at random among all that is offered, and how much of it."""

    def rests(self):
        return False

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


@dataclass(frozen=True)
class AutoAndBudget(AutoOptions, PageBudget):
    """auto, and what its self-draft reads."""


def whimsical(target, options):
    """auto, with a controller that does not care for speed."""
    return AutoDrafter(target, options, Whim)


whimsical.Options = AutoAndBudget


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
    "specvlm": {"drafter": longspec_models.untrained_specvlm},
    "block": {"drafter": block_models.untrained},
    "kivi": {"drafter": "kivi", "kv_group": 32, "recent": 0},
    **{kind.__name__: {"drafter": kind} for kind in hostile.HOSTILE},
}
# Whoever else is in the registry; views, which draft too, have a contract of their own.
DRAFTERS |= {
    name: {"drafter": name, **({"draft_model": OURS} if entry.load().needs_model else {})}
    for name, entry in registry.DRAFTERS.items()
    if name not in registry.VIEWS and name not in DRAFTERS and name != "none"
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


@cache
def engine_of(name):
    """An engine of a process: who tries every drafter on it changes nothing of it."""
    return Engine(models.build(name), hostile.tokenizer(models.VOCAB))


@cache
def draft_for(engine):
    """A draft model that is right often and wrong often."""
    return models.disturbed(engine.model, 0.03)


@cache
def plain_of(engine):
    """A function of the controls: plain decoding, row by row, the reference."""
    known = {}

    def reference(**kwargs):
        key = repr(sorted(kwargs.items(), key=str))
        if key not in known:
            one = {"max_new_tokens": NEW, **kwargs, "drafter": "none"}
            known[key] = outcome([engine.generate(p, **one) for p in PROMPTS])
        return known[key]

    return reference


def run(engine, draft=None, **kwargs):
    name = kwargs.get("drafter")
    named = isinstance(name, str) and ("model" in name or "cascade" in name)
    if named or kwargs.get("draft_model") == OURS:
        kwargs["draft_model"] = draft
    return engine.generate(PROMPTS, **{"max_new_tokens": NEW, **kwargs})


def outcome(generations):
    return [(g.token_ids, g.finish_reason, g.text) for g in generations]
