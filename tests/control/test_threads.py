"""Threads: as many as were asked for, and fewer where others want the machine."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch
from transformers import LogitsProcessorList

import specdec.hf
from specdec import Engine
from specdec.control.costs import PassCosts
from specdec.control.crowd import MANY, Crowd, idle, waited
from specdec.errors import InvalidArgument
from specdec.kernels.cpu import thread_limit
from specdec.threads import Threads

from helpers import hostile, letters, models
from helpers.command import run


@pytest.fixture(autouse=True)
def no_limit():
    yield
    thread_limit.set_limit(None)


class Machine:
    """CPUs that are shared out fairly: `ours` threads decode, `others` belong to somebody else.

    Whoever finds no CPU waits, and what nobody wants is idle.
    """

    def __init__(self, cpus, others=0.0):
        self.cpus, self.others = cpus, others
        self.now = self.waiting = self.idling = self.using = 0.0

    def crowd(self):
        return Crowd(
            lambda: self.waiting, lambda: self.idling, lambda: self.now, lambda: self.using
        )

    def run(self, crowd, threads, seconds, ours=None):
        """Passes of 20 ms; `ours`: threads that work whatever the crowd says."""
        for _ in range(round(seconds / 0.02)):
            busy = ours or crowd.count or threads
            wanted = busy + self.others
            share = min(1.0, self.cpus / wanted)
            self.now += 0.02
            self.waiting += 0.02 * busy * (1 - share)
            self.using += 0.02 * busy * share
            self.idling += 0.02 * max(0.0, self.cpus - wanted)
            if not ours:
                crowd.look(threads)
        return crowd.count


@pytest.mark.parametrize("cpus", [2, 4, 16, 128])
def test_a_quiet_machine_is_used_whole(cpus):
    machine = Machine(cpus, others=0.1)
    crowd = machine.crowd()
    machine.run(crowd, cpus, 1, ours=1)  # loads
    assert machine.run(crowd, cpus, 60) is None


@pytest.mark.parametrize(
    ("cpus", "others"), [(2, 1), (2, 2), (4, 4), (16, 16), (16, 1), (16, 9), (64, 32), (8, 30)]
)
def test_beside_others_threads_are_given_up_and_taken_back(cpus, others):
    """About as many stay as would be fastest, if a pass goes on only while none of them waits."""

    def speed(threads):
        return threads * min(1.0, cpus / (threads + others)) ** threads

    machine = Machine(cpus)
    crowd = machine.crowd()
    machine.run(crowd, cpus, 2, ours=1)
    assert machine.run(crowd, cpus, 2) is None
    machine.others = others
    machine.run(crowd, cpus, 10)
    best = max(map(speed, range(1, cpus + 1)))
    for _ in range(5):
        count = machine.run(crowd, cpus, 2) or cpus
        assert speed(count) >= 0.6 * best
    machine.others = 0
    assert machine.run(crowd, cpus, 40) is None


def test_the_first_guess_is_made_of_the_time_before():
    """Who loads its model beside others begins with what they leave."""
    machine = Machine(2, others=2)
    crowd = machine.crowd()
    machine.run(crowd, 2, 5, ours=1)
    assert machine.run(crowd, 2, 0.02) == 1
    machine = Machine(8, others=5)
    crowd = machine.crowd()
    machine.run(crowd, 8, 5, ours=1)
    assert machine.run(crowd, 8, 0.02) == 3


def test_what_was_in_vain_is_tried_ever_less_often():
    """CPUs that look idle and are not ours, as in a container: threads are tried again, rarely."""
    machine = Machine(2, others=2)
    crowd = Crowd(lambda: machine.waiting, lambda: machine.now, lambda: machine.now, lambda: 0.0)
    tried = 0
    for _ in range(4800):
        before = crowd.count
        after = machine.run(crowd, 2, 0.05)
        tried += before == 1 and after is None
    assert 3 <= tried <= 20


def test_a_pause_says_nothing():
    machine = Machine(2)
    crowd = machine.crowd()
    machine.run(crowd, 2, 2)
    machine.others = 4
    machine.run(crowd, 2, 3600, ours=1)  # other work of this process, in a crowd
    machine.others = 0
    assert machine.run(crowd, 2, 2) is None


def test_where_the_system_does_not_tell_nothing_is_given_up():
    crowd = Crowd(lambda: None, lambda: None)
    crowd._seen = (-10.0, None, None, 0.0)
    crowd.look(8)
    assert crowd.count is None and thread_limit.limited(8) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells")
def test_what_linux_tells():
    before = waited(), idle()
    assert None not in before
    assert waited() >= before[0] and idle() >= before[1]
    spin = "while True: pass"
    rivals = [
        subprocess.Popen([sys.executable, "-c", spin])
        for _ in range(3 * len(os.sched_getaffinity(0)))
    ]
    try:
        start = waited()
        for _ in range(10_000_000):
            pass
        assert waited() > start
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()


def test_slow_passes_are_told_once(caplog):
    costs = PassCosts({100: {1: 0.01, 64: 0.1}})
    crowd = Crowd(lambda: None, lambda: None)
    with caplog.at_level(logging.WARNING, "specdec"):
        for seconds in [0.01, 0.2, 0.2] * 40:  # slow now and then
            crowd.compare(costs.note(1, 100, seconds))
        assert not caplog.records
        for _ in range(3 * MANY):
            crowd.compare(costs.note(1, 100, 0.2))
    (record,) = caplog.records
    assert "passes take 20 times as long" in record.message and "--threads" in record.message
    assert PassCosts().note(1, 100, 5.0) == 1.0  # nothing to compare with


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", True, 10_000])
def test_a_number_that_cannot_be_had(bad):
    with pytest.raises(InvalidArgument, match=r"threads="):
        Engine(models.build("llama"), threads=bad)
    with pytest.raises(InvalidArgument, match=r"threads="):
        Engine.from_pretrained("no-such-model", threads=bad)


def test_an_engine_keeps_to_its_threads_and_leaves_others_theirs(monkeypatch):
    """In every pass, also of the draft, PyTorch and our kernels have as many as were asked for."""
    monkeypatch.setattr("specdec.threads._most", lambda: 4)
    engine = Engine(models.build("llama"), hostile.tokenizer(models.VOCAB), threads=3)
    seen = set()
    forward = type(engine.target.model).forward

    def spied(self, *args, **kwargs):
        seen.add((torch.get_num_threads(), thread_limit.limited(9)))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(engine.target.model), "forward", spied)
    before = torch.get_num_threads()
    thread_limit.set_limit(1)
    draft = models.build("llama", seed=1)
    for kwargs in ({}, {"drafter": "model", "draft_model": draft}):
        stream = engine.stream([1, 2, 3], max_new_tokens=8, **kwargs)
        next(stream)
        assert torch.get_num_threads() == before and thread_limit.limited(9) == 1
        stream.run()
    assert seen == {(3, 9)}
    assert torch.get_num_threads() == before
    seen.clear()
    Engine(models.build("llama")).generate([1, 2, 3], max_new_tokens=4)
    assert (before, 1) in seen


def test_the_adapter_has_threads(monkeypatch):
    """Row by row, and in lockstep where a processor looks at the whole batch."""
    monkeypatch.setattr("specdec.threads._most", lambda: 4)
    model, seen = models.build("llama"), set()
    forward, before = type(model).forward, torch.get_num_threads()

    def spied(self, *args, **kwargs):
        seen.add(torch.get_num_threads())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", spied)
    rows = torch.tensor([[1, 2], [3, 4]])
    whole = LogitsProcessorList([lambda ids, scores: scores - scores.mean()])
    for processors in (None, whole):
        model.generate(
            rows, custom_generate=specdec.hf.generate, threads=3, max_new_tokens=4,
            do_sample=False, pad_token_id=0, logits_processor=processors,
        )  # fmt: skip
        assert seen == {3} and torch.get_num_threads() == before
        seen.clear()
    with pytest.raises(InvalidArgument, match="threads=0"):
        model.generate(rows, custom_generate=specdec.hf.generate, threads=0, max_new_tokens=4)


def test_threads_are_given_back_after_an_error(monkeypatch):
    monkeypatch.setattr("specdec.threads._most", lambda: 4)
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), Threads(2).used():
        assert torch.get_num_threads() == 2
        raise ZeroDivisionError
    assert torch.get_num_threads() == before and not thread_limit.is_fixed()


def test_fewer_threads_compute_the_same_bits():
    """Work is cut as before, so that a crowded machine does not change a text."""
    numba = pytest.importorskip("numba")
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread here")
    from specdec.kernels.attention.prefix_attention import prefix_attention
    from specdec.kernels.cpu import jit

    torch.manual_seed(0)
    q = torch.randn(1, 4, 3, 16)
    k, v = torch.randn(2, 1, 2, 1000, 16)
    length, rows = torch.tensor([1000], dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        parts = {}
        for limit in (None, 1):
            thread_limit.set_limit(limit)
            parts[limit] = prefix_attention(q, k, v, length, rows, scale=0.25)
            assert jit.num_threads() == 2
            assert numba.get_num_threads() == (limit or 2)
        for one, other in zip(parts[None], parts[1], strict=True):
            assert torch.equal(one, other)
    finally:
        torch.set_num_threads(before)


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr("specdec.threads._most", lambda: 3)
    folder, before = letters.save(tmp_path / "letters"), torch.get_num_threads()
    seen = set()
    stream = Engine.stream

    def spied(*args, **kwargs):
        seen.add((torch.get_num_threads(), thread_limit.is_fixed()))
        return stream(*args, **kwargs)

    monkeypatch.setattr(Engine, "stream", spied)
    command = "generate", "abc abc", "--model", folder, "-n", "4", "--no-compare"
    for given, threads in ((["--threads", "3"], 3), (["--threads", "1"], 1), ([], before)):
        done = run(*command, *given)
        assert done.exit_code == 0, done.output
        assert seen.pop() == (threads, bool(given))
        assert torch.get_num_threads() == before and not thread_limit.is_fixed()
    done = run(*command, "--threads", "9999")
    assert done.exit_code == 2 and "threads" in done.output and "9999" in done.output


@pytest.mark.slow
def test_neighbours_are_measured(tmp_path):
    """Two processes of a tiny model, for an instant each."""
    from specdec.bench import neighbours

    folder = letters.save(tmp_path / "letters")
    found = neighbours.profile_neighbours(str(folder), 2, 0.1, 1, "auto", ["hf"])
    assert list(found["engines"]) == [neighbours.OURS, neighbours.FIXED, "hf"]
    for rows in found["engines"].values():
        assert [row["processes"] for row in rows] == [1, 2]
        assert rows[0]["share"] == 1.0 and all(row["speed"] > 0 for row in rows)
    with pytest.raises(InvalidArgument, match="processes=1"):
        neighbours.profile_neighbours(str(folder), 1, 0.1, 1)
