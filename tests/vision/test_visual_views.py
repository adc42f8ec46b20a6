"""What views for images select in a model, beside what transformers says of the same prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specdec.cache.kept_text import KeptText
from specdec.decoding.cached_model import CachedModel
from specdec.forward.full_view import FullView
from specdec.forward.prompt_queries import PromptQueries
from specdec.forward.query_recorder import QueryRecorder
from specdec.sampling.prompt import Prompt
from specdec.sampling.tree import TokenTree
from specdec.sparse.importances.covered_sights import EVERY
from specdec.sparse.importances.stream import AHEAD, LOOKING
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

    def select(self, method, turns=()):
        """The tokens that each head of each layer reads, best first; the prompt is read in turns
        that end at some places, of which each goes on from what was kept of the one before."""
        target = self.pair.engine.target
        view, saved = method.view(target), None
        with torch.inference_mode():
            for end in (*turns, len(self.prompt.ids)):
                row = make_row(0, self.prompt.ids[:end])
                inside = [span for span in self.prompt.spans if span.end <= end]
                places = self.prompt.positions
                places = None if places is None else places[:, :end]
                row.content = Prompt(self.prompt.ids[:end], inside, places)
                recorder = QueryRecorder.of(view.needs)
                base = CachedModel(target, FullView(), [row], recorder=recorder, saved=saved)
                notes = PromptQueries.kept(base.store, 0)
                saved = KeptText.of(base.store, 0, row.content.keys, notes)
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


def streamed(seen, layer, size, frames):
    """What is left of frames that come one by one, by NumPy from the paper's text."""
    attention, held = seen.maps[layer], []
    for frame in frames:
        held += frame
        if len(held) <= size:
            continue
        looking = [p for p in range(0, held[-1] + 1, EVERY) if seen.images[p] and held[0] <= p]
        paid = []
        for p in looking[-LOOKING:]:
            among = attention[:, p, held]  # of each head; what comes behind p is 0
            paid.append((among / among.sum(1, keepdims=True)).mean(0))
        score = np.mean(paid, axis=0)
        order = np.argsort(-score, kind="stable")
        left = order[: round(AHEAD * size)].tolist()
        full = {i * size // len(held) for i in left}
        for i in order[len(left) :].tolist():
            bucket = i * size // len(held)
            if bucket not in full and len(left) < size:
                full.add(bucket)
                left.append(i)
        left += [i for i in order.tolist() if i not in left][: size - len(left)]
        held = [held[i] for i in sorted(left)]
    return set(held)


def test_frames_are_compressed_as_they_come(seen):
    """In one message or in turns of a conversation; where all that is left is read."""
    text = set(np.flatnonzero(~seen.images).tolist())
    size, frames = BUDGET - len(text), [[*range(x.start, x.end)] for x in seen.prompt.spans]
    method = LiveVLM(budget=BUDGET, sink=1, recent=1, retrieved_share=1.0)
    ends = [span.end + 1 for span in seen.prompt.spans]
    for turns in ((), (ends[1],), tuple(ends[:-1])):
        found = seen.select(method, turns)
        for layer, x in found.items():
            want = text | streamed(seen, layer, size, frames)
            assert [set(row) for row in x.pages.tolist()] == [want] * len(x.pages)
    whole = [sum(frames, [])]  # compressed once, at the end, it is something else
    assert any(streamed(seen, n, size, frames) != streamed(seen, n, size, whole) for n in found)


def test_views_differ_in_what_they_read(seen):
    views = [kind(budget=BUDGET, sink=1, recent=1) for kind in (VisualPrune, LiveVLM, ReKV)]
    read = [{tuple(sorted(x.pages[0].tolist())) for x in seen.select(v).values()} for v in views]
    assert len({frozenset(x) for x in read}) == 3
