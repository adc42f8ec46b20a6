"""`specdec measure-drafter`: how much of what a target writes its LongSpec drafter foresees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def measure_drafter(
    out: Annotated[Path, typer.Option(help="JSON file of the results.")],
    target: Annotated[str, typer.Option(help="The model that is drafted for.")] = "demo",
    drafter: Annotated[str | None, typer.Option(help="Checkpoint; default: the shipped.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="As given for training: its held-out files are used.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Questions (.jsonl with `turns`) for the chat texts.")
    ] = None,
    count: Annotated[int, typer.Option(help="Texts of each kind.")] = 8,
    new_tokens: Annotated[int, typer.Option(help="Tokens that the target writes for each.")] = 96,
    lengths: Annotated[str, typer.Option(help="Contexts to compare, in tokens.")] = "500,2000,7500",
    long_count: Annotated[int, typer.Option(help="Texts of each kind for each context.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the choice of texts.")] = 0,
) -> None:
    """Measure agreement and acceptance length on chat, code and prose, and at long contexts.

    The target's greedy texts are written first; drafts are then counted against them.
    """
    import random

    from specdec.bench.machine import machine
    from specdec.drafts.longspec import SHIPPED, prepared
    from specdec.drafts.longspec_checkpoint import Checkpoint
    from specdec.drafts.training import measure
    from specdec.drafts.training.corpus import gather, split
    from specdec.drafts.training.questions import question
    from specdec.engine import Engine

    engine = Engine.from_pretrained(target)
    trained = prepared(engine.target, drafter)
    checkpoint = Checkpoint.load(drafter or SHIPPED)
    fresh = measure.untrained(engine, checkpoint)
    _, corpus = split(gather(data or []))
    rng = random.Random(f"{seed}/chat")
    if prompts is not None:
        lines = [json.loads(line) for line in prompts.read_text("utf-8").splitlines()]
        asked = [line["turns"][0] for line in rng.sample(lines, min(count, len(lines)))]
    else:
        asked = [
            question(rng, corpus.passage(rng, "prose", 500), corpus.passage(rng, "code", 400))
            for _ in range(count)
        ]
    kinds: dict[str, list[Any]] = {"chat": [[{"role": "user", "content": q}] for q in asked]}
    for kind in corpus.kinds:
        kinds[kind] = measure.passages(engine, corpus, kind, [128], count, seed)[128]
    report: dict[str, Any] = {
        "machine": machine(), "target": engine.name, "training": checkpoint.training,
        "new_tokens": new_tokens, "kinds": {}, "contexts": {},
    }  # fmt: skip

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    def save() -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")

    for kind, those in kinds.items():
        tell(f"{kind}: {len(those)} texts")
        texts = measure.written(engine, those, new_tokens)
        report["kinds"][kind] = {
            "trained": measure.gains(engine, trained, texts, tell),
            "untrained": measure.gains(engine, fresh, texts, tell),
        }
        save()
    sizes = [int(length) for length in lengths.split(",") if length]
    found = {
        kind: measure.passages(engine, corpus, kind, sizes, long_count, seed + 1)
        for kind in corpus.kinds
        if sizes
    }
    for length in sizes:
        tell(f"{length} tokens of context")
        contexts = [ids for kind in found.values() for ids in kind[length]]
        texts = measure.written(engine, contexts, new_tokens)
        report["contexts"][str(length)] = measure.gains(engine, trained, texts, tell)
        save()
