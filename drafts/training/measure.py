"""Measure: agreement and acceptance length of a LongSpec drafter on texts the target writes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from specdec.drafts.longspec import LongSpec, Prepared, fitted
from specdec.drafts.longspec_checkpoint import Checkpoint, sizes_for
from specdec.drafts.training.corpus import Corpus
from specdec.drafts.training.replay import Gain, replay
from specdec.drafts.training.start import new_block
from specdec.engine import Engine
from specdec.options import DraftOptions

# name -> options: the shapes that are measured
SHAPES: dict[str, dict[str, Any]] = {
    "chain of 4": {"num_draft_tokens": 4},
    "tree of 32": {"num_draft_tokens": 6, "draft_nodes": 33},  # and its root
}

Text = tuple[list[int], int]  # tokens, and how many of them are the prompt


def written(engine: Engine, prompts: Sequence[Any], new_tokens: int) -> list[Text]:
    """Each prompt with the target's greedy answer, which plain decoding makes."""
    texts = []
    for prompt in prompts:
        (out,) = engine.generate([prompt], drafter="none", max_new_tokens=new_tokens)  # type: ignore[misc]
        ids = _ids(engine, prompt)
        texts.append(([*ids, *out.token_ids], len(ids)))
    return texts


def gains(
    engine: Engine, prepared: Prepared, texts: Sequence[Text], tell: Callable[[str], None]
) -> dict[str, Any]:
    """Top-1 agreement after the newest token, and acceptance length of each of SHAPES."""
    report: dict[str, Any] = {"texts": len(texts)}
    for name, options in SHAPES.items():
        drafter = LongSpec(engine.target, DraftOptions(draft_model=prepared, **options))
        total = Gain()
        for tokens, start in texts:
            total += replay(engine.target, drafter, tokens, start)
        report[name] = round(total.acceptance_length, 3)
        report["tokens"] = total.tokens
        tell(f"{name}: {report[name]}")
    agree = Gain()
    one = LongSpec(engine.target, DraftOptions(draft_model=prepared, num_draft_tokens=1))
    for tokens, start in texts:
        agree += replay(engine.target, one, tokens, start)
    report["top1"] = round(agree.acceptance_length - 1, 3)
    return report


def untrained(engine: Engine, checkpoint: Checkpoint) -> Prepared:
    """The block as it is before the first lesson, with the same draft vocabulary."""
    sizes = checkpoint.sizes
    fresh = sizes_for(engine.target, sizes.mlp_size, sizes.window, sizes.max_lag)
    block = new_block(engine.target, fresh, seed=0)
    return fitted(engine.target, block.requires_grad_(False).eval(), checkpoint.ids)


def passages(
    engine: Engine, corpus: Corpus, kind: str, lengths: Sequence[int], count: int, seed: int
) -> dict[int, list[list[int]]]:
    """For each of `lengths` the last so many tokens in front of `count` places of the corpus.

    The places are the same for all lengths, so that only the length of the context differs.
    """
    rng = random.Random(f"{seed}/{kind}")
    longest = max(lengths)
    out: dict[int, list[list[int]]] = {length: [] for length in lengths}
    for _ in range(count):
        ids: list[int] = []
        while len(ids) < longest:
            text = corpus.passage(rng, kind, 6 * longest)
            ids = _ids(engine, text) + ids
        for length in lengths:
            out[length].append(ids[-length:])
    return out


def _ids(engine: Engine, prompt: Any) -> list[int]:
    from specdec.prompt import parse_prompts

    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return list(prompt)
    return parse_prompts(prompt, engine.tokenizer, engine.target.vocab_size)[0][0]

