"""The suite: every contestant on every workload, taking turns in one process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from transformers import PreTrainedModel

from specdec.bench.contestants import Contestant, HuggingFace, Ours, Run
from specdec.bench.machine import facts
from specdec.bench.workloads import Workload, quick
from specdec.engine import Engine
from specdec.errors import unknown_name
from specdec.loader import load

BASELINES: dict[str, dict[str, Any]] = {
    "hf": {},
    "hf-pld": {"prompt_lookup_num_tokens": 10},
}


def run(
    engine: Engine,
    model: Any,
    drafters: Sequence[str],
    baselines: Sequence[str],
    repeats: int = 3,
    max_new_tokens: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure plain decoding, `drafters` and `baselines` on the quick workloads; a JSON document.

    `model` is what `engine` was loaded from: the baselines get a model of their own. One unmeasured
    run each warms up; then rounds in which everyone has a turn, so that a slow moment of the
    machine meets all alike. `progress` hears of runs done and runs in all.
    """
    for name in baselines:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    contestants: list[Contestant] = [Ours(engine, d) for d in dict.fromkeys(["none", *drafters])]
    if baselines:
        stock = _stock(engine, model)
        contestants += [HuggingFace(stock, name, BASELINES[name]) for name in baselines]
    workloads = quick()
    total, done = len(workloads) * len(contestants) * (repeats + 1), 0
    rows = []
    for workload in workloads:
        ids = _ids(engine, workload)
        count = min(max_new_tokens or workload.max_new_tokens, engine.target.max_positions)
        runs: dict[str, list[Run]] = {c.name: [] for c in contestants}
        for turn in range(repeats + 1):
            for contestant in contestants:
                result = contestant.run(ids, count)
                if turn:
                    runs[contestant.name].append(result)
                done += 1
                progress(done, total)
        rows.append(_row(workload, len(ids), runs))
    return {
        "suite": "quick",
        "model": engine.name,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "repeats": repeats,
        "machine": facts(),
        "workloads": rows,
    }


def _row(workload: Workload, prompt_tokens: int, runs: dict[str, list[Run]]) -> dict[str, Any]:
    plain = runs["plain"][0].token_ids
    return {
        "workload": workload.name,
        "summary": workload.summary,
        "prompt_tokens": prompt_tokens,
        "new_tokens": len(plain),
        "loops": loops(plain),
        "contestants": {
            name: {
                "tokens_per_s": median(r.tokens_per_s for r in mine),
                "all_tokens_per_s": [r.tokens_per_s for r in mine],
                "acceptance_length": mine[0].acceptance_length,
                "tokens_equal_to_plain": _agreement(mine[0].token_ids, plain),
            }
            for name, mine in runs.items()
        },
    }


def loops(tokens: Sequence[int], window: int = 96) -> bool:
    """Whether a text ends in a loop: one phrase of up to a third of the window, over and over."""
    tail = list(tokens[-window:])
    return any(tail[period:] == tail[:-period] for period in range(1, len(tail) // 3 + 1))


def _agreement(tokens: Sequence[int], plain: Sequence[int]) -> int:
    """How many tokens are equal before the first difference."""
    pairs = zip(tokens, plain, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(plain)))


def _ids(engine: Engine, workload: Workload) -> list[int]:
    tokenizer = engine.tokenizer
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(
            workload.messages, add_generation_prompt=True, tokenize=False
        )
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer(workload.prompt)["input_ids"])


def _stock(engine: Engine, model: Any) -> PreTrainedModel:
    """The same weights as transformers runs them, with no end token, so that all texts are long."""
    stock = load(model, dtype=engine.dtype, device=engine.device).model
    stock.generation_config = copy.deepcopy(stock.generation_config)
    stock.generation_config.eos_token_id = None
    return stock
