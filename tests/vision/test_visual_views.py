"""What views for images select in a model, beside what transformers says of the same prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specdec.decoding.cached_model import CachedModel
from specdec.forward.full_view import FullView
from specdec.forward.query_recorder import QueryRecorder
from specdec.sampling.tree import TokenTree
from specdec.sparse.methods.livevlm import LiveVLM
from specdec.sparse.methods.look_m import LookM
from specdec.sparse.methods.rekv import ReKV
from specdec.sparse.methods.visual_prune import VisualPrune
from specdec.vision.reading import read_processed

from helpers import vision
from helpers.passes import make_row

NAMES = ["llava", "qwen2-vl", "qwen3-vl"]
BUDGET = 24


class Seen:
    """A prompt with four images in a model: its maps, and which tokens are of which image."""

    def __init__(self, pair):
        self.pair = pair
        inputs = vision.inputs(pair.name, 3, images=(0, 1, 0, 1))
        (self.prompt,) = read_processed(inputs, pair.engine.model)
        self.n = len(self.prompt.ids) - 1
        short = {
            key: x[:, : self.n] if x.shape[:2] == inputs["input_ids"].shape else x
            for key, x in inputs.items()
        }
        with torch.no_grad():  # as `generate` calls it, so that positions are right
            out = pair.model.generate(
                **short, max_new_tokens=1, do_sample=False, output_attentions=True,
                return_dict_in_generate=True,
            )  # fmt: skip
        self.maps = [x[0].numpy() for x in out.attentions[0]]
        self.images = np.zeros(self.n, dtype=bool)
        for span in self.prompt.spans:
            self.images[span.start : span.end] = True

    def select(self, method):
        """The tokens that each head of each layer reads, best first."""
        target = self.pair.engine.target
        view = method.view(target)
        row = make_row(0, self.prompt.ids)
        row.content = self.prompt
        with torch.inference_mode():
            base = CachedModel(target, FullView(), [row], recorder=QueryRecorder.of(view.needs))
            draft = CachedModel(target, view, [row], base=base)
            draft.forward([row], [TokenTree.root(row.tokens[-1])])
        return dict(draft.state.of(0).selections)

    def asked(self, layer):
        """The question's attention, mean over its queries and all heads."""
        window = [i for i in range(self.n - 32, self.n) if not self.images[i]]
        return self.maps[layer][:, window].mean((0, 1))


@pytest.fixture(scope="module", params=NAMES)
def seen(request, pair_of):
    return Seen(pair_of(request.param))


def test_text_is_read_and_images_are_pruned(seen):
    text = set(np.flatnonzero(~seen.images).tolist())
    room = BUDGET - len(text)
    assert 0 < room < seen.images.sum()
    for layer, x in seen.select(VisualPrune(budget=BUDGET, sink=1, recent=1)).items():
        score = seen.asked(layer)[seen.images]
        places = np.flatnonzero(seen.images)
        order = np.argsort(-score, kind="stable")
        mass = score[order].cumsum()
        first = min(room, int((mass < 0.4 * mass[-1]).sum()) + 1)
        left = sorted(set(range(len(score))) - set(order[:first].tolist()))
        more = {left[round(i)] for i in np.linspace(0, len(left) - 1, room - first)}
        want = text | {int(places[i]) for i in {*order[:first].tolist(), *more}}
        assert [set(row) for row in x.pages.tolist()] == [want] * len(x.pages)


def test_text_outranks_images(seen):
    for layer, x in seen.select(LookM(budget=BUDGET, sink=0, recent=1)).items():
        groups = seen.maps[layer].reshape(2, -1, seen.n, seen.n).sum((1, 2))
        score = np.where(seen.images, groups - 1000, groups)
        score[:, -1] = np.inf
        kept = np.argsort(-score, kind="stable", axis=1)[:, :BUDGET]
        assert x.entries.k.shape[1] == BUDGET and x.pages.shape[1] == 0
        assert not seen.images[kept[:, : (~seen.images).sum()]].any()


def test_frames_come_whole(seen):
    text = set(np.flatnonzero(~seen.images).tolist())
    frames = [set(range(span.start, span.end)) for span in seen.prompt.spans]
    for x in seen.select(ReKV(budget=len(text) + len(frames[0]), sink=1, recent=1)).values():
        rows = [set(row) for row in x.pages.tolist()]
        assert all(row == rows[0] and row >= text for row in rows)
        partly = [frame for frame in frames if frame & rows[0] and not frame <= rows[0]]
        assert len(partly) <= 1  # the last one that the budget has room for


def test_pages_of_what_images_look_at(seen):
    text = set(np.flatnonzero(~seen.images).tolist())
    for x in seen.select(LiveVLM(budget=BUDGET, sink=1, recent=1)).values():
        rows = [set(row) for row in x.pages.tolist()]
        assert all(row == rows[0] and row >= text and len(row) == BUDGET for row in rows)


def test_views_differ_in_what_they_read(seen):
    views = [kind(budget=BUDGET, sink=1, recent=1) for kind in (VisualPrune, LiveVLM, ReKV)]
    read = [{tuple(sorted(x.pages[0].tolist())) for x in seen.select(v).values()} for v in views]
    assert len({frozenset(x) for x in read}) == 3
