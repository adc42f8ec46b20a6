"""A stream can be left at any time, by anybody: the streamer hears the end, the engine goes on."""

from __future__ import annotations

import gc
import json

import pytest
import torch

import specdec.hf
from specdec import Engine
from specdec.control import calibration
from specdec.errors import InvalidArgument

from helpers import models

PROMPT, OTHER = [1, 5, 2, 8, 3], [7, 7, 2]


class Listener:
    """Counts what it is told, as a streamer of transformers."""

    def __init__(self, fails=0):
        self.puts = self.ends = 0
        self.fails = fails

    def put(self, value):
        self.puts += 1
        if self.puts == self.fails:
            raise RuntimeError("on purpose")

    def end(self):
        self.ends += 1


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["plain", "packed"])
def engine(request):
    return Engine(models.build("llama", dtype=request.param))


def text(engine, prompt=PROMPT, **kwargs):
    return engine.generate(prompt, **{"drafter": "none", "max_new_tokens": 20, **kwargs}).token_ids


def interrupt(ids, scores):
    if ids.shape[1] > 8:
        raise KeyboardInterrupt
    return scores


def test_the_end_is_told_once(engine):
    for drafter in ("none", "ngram", "auto"):
        listener = Listener()
        text(engine, streamer=listener, drafter=drafter)
        assert listener.ends == 1 and listener.puts > 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, InvalidArgument])
def test_the_end_is_told_after_an_error(engine, error):
    """In a round, in the streamer itself, or before there is anything to say."""
    want, listener = text(engine), Listener(3 if error is RuntimeError else 0)
    kwargs = {
        KeyboardInterrupt: {"logits_processor": [interrupt]},
        RuntimeError: {},
        InvalidArgument: {"temperatur": 1.0},
    }[error]
    with pytest.raises(error):
        text(engine, streamer=listener, **kwargs)
    assert listener.ends == 1
    assert text(engine) == want, "the engine goes on"


@pytest.mark.parametrize("fails", [1, 3])
def test_transformers_streamers_hear_the_end(engine, fails):
    """Also one that fails at the prompt, which transformers shows it before it calls us."""
    listener, model = Listener(fails), models.build("llama")
    with pytest.raises(RuntimeError, match="on purpose"):
        specdec.hf.generate(
            model, torch.tensor([PROMPT]), streamer=listener, max_new_tokens=8, do_sample=False
        )
    assert listener.ends == 1


def test_a_stream_that_is_closed(engine):
    want = text(engine)
    listener = Listener()
    stream = engine.stream(PROMPT, drafter="none", max_new_tokens=20, streamer=listener)
    next(stream), next(stream)
    stream.close()
    assert listener.ends == 1 and list(stream) == [] and not stream.generations
    stream.close()
    assert listener.ends == 1
    with engine.stream(PROMPT, drafter="none", streamer=listener) as stream:
        pass  # not even begun
    assert listener.ends == 2
    with pytest.raises(ZeroDivisionError), engine.stream(PROMPT, streamer=listener) as stream:
        for _ in stream:
            raise ZeroDivisionError
    assert listener.ends == 3
    with engine.stream(PROMPT, drafter="none", max_new_tokens=20, streamer=listener) as stream:
        stream.run()
    assert listener.ends == 4 and stream.generations[0].token_ids == want


def test_a_stream_that_is_dropped(engine):
    want, listener = text(engine), Listener()
    for step in engine.stream(PROMPT, max_new_tokens=20, streamer=listener):
        assert step.token_ids
        break
    gc.collect()
    assert listener.ends == 1
    assert text(engine) == want


@pytest.mark.parametrize("drafter", ["none", "ngram", "auto", "quest"])
def test_streams_interleaved(engine, drafter):
    """Each has its own text, whatever the other does in between."""
    options = {"drafter": drafter, "max_new_tokens": 20}
    if drafter == "quest":
        options |= {"budget": 20, "sink": 2, "recent": 2}
    want = [engine.generate(prompt, **options).token_ids for prompt in (PROMPT, OTHER)]
    streams = [engine.stream(prompt, **options) for prompt in (PROMPT, OTHER, OTHER)]
    next(streams[2])
    out, live = [[], []], [0, 1]
    while live:
        for i in list(live):
            step = next(streams[i], None)
            if step is None:
                live.remove(i)
            else:
                out[i] += step.token_ids
    assert out == want
    streams[2].close()


def test_costs_are_kept_when_a_stream_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "cache_root", lambda: tmp_path)
    engine = Engine(models.build("llama", seed=8, hidden_size=32))
    stream = engine.stream(PROMPT, drafter="auto", max_new_tokens=40)
    next(stream)
    stream.model.costs.acceptance["mark"] = 0.5
    stream.model.costs.ledger.spent += 60  # seconds: files are written where that is little beside
    stream.close()
    (file,) = (tmp_path / "costs").glob("*.json")
    assert json.loads(file.read_text())["acceptance"]["mark"] == 0.5
