"""SpecVLM's training: it computes what drafting does, it learns, goes on, and refuses."""

from __future__ import annotations

import random

import pytest
import torch

from specdec import Engine, Prompt, Span
from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.training.teacher import Teacher
from specdec.drafts.specvlm.model import SpecVlmModel
from specdec.drafts.specvlm.training.viewer import Viewer
from specdec.drafts.specvlm.training.visual_block import WAYS, How, VisualBlock
from specdec.forward.full_view import FullView
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

from helpers import hostile, longspec_models, models

SIZES = (11, 7)  # tokens of images
IDS = [(5 * i * i + i) % models.VOCAB for i in range(36)]
MOST, TOKENS = 6, 4


def prompt(seed, ids, places, sizes=SIZES):
    torch.manual_seed(seed)
    spans = [
        Span(start, torch.randn(size, 24, dtype=torch.float64))
        for start, size in zip(places, sizes)
    ]
    return Prompt(list(ids), spans)


PROMPTS = [prompt(0, IDS, (3, 17)), prompt(1, IDS[:29], (6,))]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3"])
def seen(request):
    """A target, a random block with a compressor, and a lesson of two prompts."""
    engine = Engine(models.build(request.param), hostile.tokenizer(models.VOCAB))
    images = longspec_models.images(engine.target, window=16)
    viewer = Viewer(engine.target, images.parts.block.sizes.kv_layer)
    lesson = viewer.answered(
        PROMPTS, [None, [4, 9, 3]], MOST, torch.zeros(2), random.Random(0), stop={3}
    )
    return engine, images, lesson


@torch.inference_mode()
@pytest.mark.parametrize("way", WAYS)
def test_drafting_computes_what_training_did(seen, way):
    """Draft d behind a prompt is training's column d with a lag of d + 1."""
    engine, images, lesson = seen
    parts, target = images.parts, engine.target
    module = VisualBlock(parts.block, images.compressor, TOKENS)
    how = How(torch.full((2,), WAYS.index(way)))
    embedding = target.model.get_input_embeddings()
    for number, content in enumerate(PROMPTS):
        n = len(content.ids)
        row = Row(number, number, list(content.ids), n, n + 20, None, n, content=content, slot=0)
        verifier = CachedModel(target, FullView(), [row])
        if way == "whole":
            model = longspec_models.whole(target, images, verifier)
        else:
            model = SpecVlmModel(target, images, verifier, way, TOKENS)
        drafted = [model.forward([row], [TokenTree.root(row.tokens[-1])])[0][0]]
        for d in range(int(lesson.count[number]) - 1):
            text = lesson.tokens[number, n + d : n + d + 1].tolist()
            drafted.append(model.grow([row], [text], [[d]])[1][0, 0])
        for d, logits in enumerate(drafted):
            h = module(
                embedding(lesson.tokens), None, lesson.k, lesson.v, parts.rotary, d + 1,
                lesson=lesson, how=how,
            )  # fmt: skip
            want = parts.head(h[number, d])
            torch.testing.assert_close(logits, want, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_lesson_holds_what_the_target_says(seen):
    """Hidden states and probabilities are those of reading the whole text at once, image included;
    given answers are followed, others are the target's own."""
    engine, _, lesson = seen
    assert lesson.count.tolist()[1] == 3 and lesson.tokens[1, 29:31].tolist() == [4, 9]
    assert lesson.images.tolist() == [[[3, 14], [17, 24]], [[6, 17], [0, 0]]]
    assert not lesson.k.isnan().any()
    out = engine.generate(PROMPTS[0], drafter="none", max_new_tokens=MOST, eos_token_id=[3])
    said = out.token_ids
    read = len(said) - 1  # the last one was not read
    assert lesson.tokens[0, 36 : 36 + read].tolist() == said[:read]
    best = lesson.top_ids[0, : int(lesson.count[0]), 0].tolist()
    assert best == said and lesson.count[0] == len(said)
    head = engine.target.model.get_output_embeddings()
    logp = head(lesson.hidden[0]).log_softmax(-1).topk(32)
    torch.testing.assert_close(logp.values, lesson.top_logp[0].double(), rtol=0, atol=4e-3)
    assert issubclass(Viewer, Teacher)
