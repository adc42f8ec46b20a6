"""Measure: agreement and acceptance length of a LongSpec drafter on texts the target writes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from specdec.decoding.prompt import parse_prompts
from specdec.drafts.longspec.checkpoint import Checkpoint, sizes_for
from specdec.drafts.longspec.drafter import SHIPPED, LongSpec, fitted, prepared
from specdec.drafts.longspec.prepared import Prepared
from specdec.drafts.longspec.training.corpus import Corpus, gather, split
from specdec.drafts.longspec.training.questions import question
from specdec.drafts.longspec.training.replay import Gain, Written, replay
from specdec.drafts.longspec.training.start import new_block
from specdec.drafts.methods.longspec import LongSpecOptions
from specdec.engine import Engine
from specdec.machine import facts

# name -> options: the shapes that are measured
SHAPES: dict[str, dict[str, Any]] = {
    "chain of 4": {"num_draft_tokens": 4},
    "tree of 32": {"num_draft_tokens": 6, "draft_nodes": 33},  # and its root
}

DENSE = 1024  # tokens of a text up to which agreement is measured in one dense pass
Text = tuple[list[int], int]  # tokens, and how many of them are the prompt


def written(engine: Engine, prompts: Sequence[Any], new_tokens: int) -> list[Text]:
    """Each prompt with the target's greedy answer, which plain decoding makes."""
    texts = []
    for prompt in prompts:
        (out,) = engine.generate([prompt], drafter="none", max_new_tokens=new_tokens)  # type: ignore[misc]
        ids = _ids(engine, prompt)
        texts.append(([*ids, *out.token_ids], len(ids)))
    return texts


@torch.inference_mode()
def gains(
    engine: Engine, drafters: dict[str, Prepared], texts: Sequence[Text]
) -> dict[str, dict[str, float]]:
    """For each drafter its acceptance length with each of SHAPES, and its top-1 agreement.

    The latter is measured after every written token, and left out for texts over DENSE tokens.
    """
    totals = {(who, shape): Gain() for who in drafters for shape in SHAPES}
    hits, places = dict.fromkeys(drafters, 0), 0
    for tokens, start in texts:
        written = Written(engine.target, tokens)
        for who, parts in drafters.items():
            for shape, options in SHAPES.items():
                chosen = LongSpecOptions(draft_model=parts, **{"min_draft_prob": 0.0, **options})
                drafter = LongSpec(engine.target, chosen)
                totals[who, shape] += replay(drafter, written, start)
            written.sync_to(None, len(tokens))
            if len(tokens) <= DENSE:
                hits[who] += _agreements(parts, written, start)
        places += len(tokens) - start if len(tokens) <= DENSE else 0
    report: dict[str, dict[str, float]] = {}
    for who in drafters:
        report[who] = {shape: round(totals[who, shape].acceptance_length, 3) for shape in SHAPES}
        if places:
            report[who]["top1"] = round(hits[who] / places, 3)
        report[who]["tokens"] = sum(len(tokens) - start for tokens, start in texts)
    return report


@torch.inference_mode()
def _agreements(prepared: Prepared, written: Written, start: int) -> int:
    """After how many tokens before the written ones the block's best is the one written."""
    block, target = prepared.block, written.target
    level, layer, end = written.store.levels[0], block.sizes.kv_layer, len(written.text)
    keys, values = level.k[layer], level.v[layer]
    embedding = target.model.get_input_embeddings()
    assert keys is not None and values is not None and embedding is not None
    tokens = torch.tensor([written.text], device=target.device)
    positions = torch.arange(end, device=target.device)[None]
    kv = keys[:, :, :end], values[:, :, :end]
    h = block(embedding(tokens).to(prepared.head.weight.dtype), positions, *kv, prepared.rotary, 1)
    best = prepared.head(h[0, start - 1 : -1]).argmax(-1)
    if prepared.ids is not None:
        best = prepared.ids[best]
    return int((best == tokens[0, start:]).sum())


def untrained(engine: Engine, checkpoint: Checkpoint) -> Prepared:
    """The block as it is before the first lesson, with the same draft vocabulary."""
    sizes = checkpoint.sizes
    fresh = sizes_for(engine.target, sizes.mlp_size, sizes.window, sizes.max_lag, sizes.kv_layer)
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
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return list(prompt)
    return parse_prompts(prompt, engine.tokenizer, engine.target.vocab_size)[0][0]


def _shown(figures: dict[str, float]) -> str:
    """Acceptance lengths and agreement of one drafter, in words."""
    names = {"top1": "top-1 agreement", "tokens": "of tokens"}
    return ", ".join(f"{names.get(name, name)} {value:g}" for name, value in figures.items())


def measure(
    target: str,
    drafter: str | None,
    data: Sequence[Path],
    questions: Sequence[str] | None,
    *,
    count: int,
    new_tokens: int,
    lengths: Sequence[int],
    long_count: int,
    seed: int,
    tell: Callable[[str], None],
    save: Callable[[dict[str, Any]], None],
) -> None:
    """Agreement and acceptance length on chat, code and prose, and at contexts of `lengths`.

    data: as given for training, of which the held-out files are taken; questions: of the chats, or
    None for made-up ones. `save` is called with the report whenever it has grown.
    """
    _, corpus = split(gather(data))
    engine = Engine.from_pretrained(target)
    trained = prepared(engine.target, drafter)
    checkpoint = Checkpoint.load(SHIPPED if drafter is None else drafter)
    fresh = untrained(engine, checkpoint)
    rng = random.Random(f"{seed}/chat")
    asked = [
        question(rng, corpus.passage(rng, "prose", 500), corpus.passage(rng, "code", 400))
        for _ in range(count)
    ]
    if questions is not None:
        asked = rng.sample(list(questions), min(count, len(questions)))
    kinds: dict[str, list[Any]] = {"chat": [[{"role": "user", "content": q}] for q in asked]}
    for kind in corpus.kinds:
        kinds[kind] = passages(engine, corpus, kind, [128], count, seed)[128]
    report: dict[str, Any] = {
        "machine": facts(), "target": engine.name, "kinds": {}, "contexts": {},
        "training": checkpoint.training, "new_tokens": new_tokens, "shapes": SHAPES,
    }  # fmt: skip
    for kind, prompts in kinds.items():
        tell(f"{kind}: {len(prompts)} texts")
        texts = written(engine, prompts, new_tokens)
        report["kinds"][kind] = gains(engine, {"trained": trained, "untrained": fresh}, texts)
        for who, figures in report["kinds"][kind].items():
            tell(f"  {who}: {_shown(figures)}")
        save(report)
    found = [
        passages(engine, corpus, kind, lengths, long_count, seed + 1)
        for kind in corpus.kinds
        if lengths
    ]
    for length in lengths:
        tell(f"{length} tokens of context")
        texts = written(engine, [ids for kind in found for ids in kind[length]], new_tokens)
        report["contexts"][str(length)] = gains(engine, {"trained": trained}, texts)["trained"]
        tell(f"  trained: {_shown(report['contexts'][str(length)])}")
        save(report)
