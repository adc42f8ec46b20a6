"""Image branches: what SpecVLM drafts with each, with the gate, and with images as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from statistics import mean
from typing import Any

from specdec import Engine, machine
from specdec.bench.toy import pages
from specdec.bench.toy.pictures import HELD_OUT, Pictures
from specdec.bench.toy.settings import Settings
from specdec.bench.toy.talk import messages
from specdec.decoding.prompt_images import with_images
from specdec.drafts.longspec.drafter import LongSpec
from specdec.drafts.longspec.training.replay import Gain, Written, replay
from specdec.drafts.methods.longspec import LongSpecOptions
from specdec.drafts.methods.specvlm import SpecVlmOptions
from specdec.drafts.specvlm.compressor import BRANCHES, GATE
from specdec.drafts.specvlm.drafter import SpecVlm
from specdec.drafts.specvlm.prepared import PreparedImages, prepared
from specdec.errors import InvalidArgument

WHOLE = "whole"  # the same block without a compressor
CHAIN = 4  # draft tokens
Progress = Callable[[int, int], None]


def measure(
    engine: Engine,
    checkpoint: str | None,
    counts: Sequence[int],
    prompts: int,
    new_tokens: int,
    image_tokens: int | None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Acceptance length of every way, and bytes that are kept for an image, by numbers of images.

    A prompt is `n` images and a question about the last one, a page to be read; that is the same
    for all numbers. The target writes its greedy answer, and rounds are replayed over it
    (`longspec.training.replay`). Pictures are those that no training has seen.
    """
    if getattr(engine, "processor", None) is None:
        raise InvalidArgument("this model reads no images, or has no processor: give another one")
    images = prepared(engine.target, checkpoint)
    ways = [WHOLE, *[name for name in BRANCHES if images.is_trained or _is_free(name)]]
    ways += [GATE] if images.is_trained else []
    done, cells = 0, []
    for count in counts:
        gains = {way: Gain() for way in ways}
        kept: dict[str, list[float]] = {way: [] for way in ways}
        chosen: Counter[str] = Counter()
        lengths = []
        for chat in conversations(engine.tokenizer, count, prompts):
            prompt = with_images(chat, engine)
            (out,) = engine.generate([prompt], drafter="none", max_new_tokens=new_tokens)  # type: ignore[misc]
            written = Written(engine.target, [*prompt.ids, *out.token_ids], prompt)
            lengths.append(len(prompt.ids))
            for way in ways:
                drafter = _drafter(engine, images, way, image_tokens)
                gains[way] += replay(drafter, written, len(prompt.ids))
                model: Any = drafter._model
                if way != WHOLE:
                    entries = sum(x.nbytes for x in model.kept.values() if x is not None)
                    kept[way].append(entries / count)
                if way == GATE:
                    chosen.update(model.chosen)
            done += 1
            progress(done, prompts * len(counts))
        cells.append(
            {
                "images": count,
                "prompt_tokens": round(mean(lengths)),
                "new_tokens": gains[WHOLE].tokens,
                "gate": dict(chosen),
                "ways": {
                    way: {
                        "acceptance_length": round(gains[way].acceptance_length, 3),
                        **({"bytes": max(kept[way])} if kept[way] else {}),
                    }
                    for way in ways
                },
            }
        )
    return {
        "machine": machine.facts(),
        "model": engine.name,
        "checkpoint": checkpoint or "that ships",
        "image_tokens": image_tokens or images.compressor.sizes.tokens,
        "draft_tokens": CHAIN,
        "cells": cells,
    }


def conversations(tokenizer: Any, images: int, count: int) -> list[list[dict[str, Any]]]:
    """`count` questions to read the last one of so many images; the others are pages and scenes."""
    learned = Settings()
    words = pages.vocabulary(tokenizer, learned.words) or pages.frequent(learned.words)
    made = []
    for number in range(count):
        draw = Random(f"{HELD_OUT} branches {number}")
        asked = pages.page(words, draw, learned.fonts)
        before = Pictures(words, None, 0, learned.fonts).others(images - 1, draw)
        made.append(messages(replace(asked, before=before), 0))
    return made


def table(found: dict[str, Any]) -> str:
    """Acceptance lengths and bytes as Markdown."""
    ways = list(found["cells"][0]["ways"])
    lines = [
        "| images | " + " | ".join(ways) + " |",
        "|" + "---|" * (len(ways) + 1),
    ]
    for cell in found["cells"]:
        figures = [f"{cell['ways'][way]['acceptance_length']:.2f}" for way in ways]
        lines.append(f"| {cell['images']} | " + " | ".join(figures) + " |")
    last = found["cells"][-1]["ways"]
    sizes = [f"{last[way]['bytes'] / 1e3:.1f}" if "bytes" in last[way] else "" for way in ways]
    lines.append("| KB kept an image | " + " | ".join(sizes) + " |")
    return "\n".join(lines) + "\n"


def _drafter(engine: Engine, images: PreparedImages, way: str, tokens: int | None) -> LongSpec:
    if way == WHOLE:
        whole = LongSpecOptions(
            draft_model=images.parts, num_draft_tokens=CHAIN, min_draft_prob=0.0
        )
        return LongSpec(engine.target, whole)
    small = SpecVlmOptions(
        draft_model=images,
        image_branch=way,
        image_tokens=tokens,
        num_draft_tokens=CHAIN,
        min_draft_prob=0.0,
    )
    return SpecVlm(engine.target, small)


def _is_free(name: str) -> bool:
    """Whether a branch needs no training."""
    return not BRANCHES[name].is_trained
