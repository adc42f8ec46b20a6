"""Turns of a conversation: the text of the whole chat, of which only what is new is read."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import pytest

from specdec import Engine
from specdec.errors import InvalidArgument
from specdec.model.target import Target

from helpers import letters
from helpers.command import run

SAID = ["abc abc abc abc", "what now? abc", "and then", "abc abc"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = letters.save(tmp_path_factory.mktemp("chat") / "letters", positions=1024)
    (Path(place) / "chat_template.jinja").write_text(TEMPLATE)
    return place


@pytest.fixture(scope="module")
def engine(folder):
    return Engine.from_pretrained(folder, dtype="float64")


class Reading:
    """Counts the tokens that prompts are read in."""

    def __enter__(self):
        self.tokens, prefill = [], Target.prefill

        def counted(target, store, view, sequence, tokens, *rest):
            self.tokens.append(len(tokens))
            return prefill(target, store, view, sequence, tokens, *rest)

        self._patch = patch.object(Target, "prefill", counted)
        self._patch.start()
        return self

    def __exit__(self, *_):
        self._patch.stop()


def answers(engine, **settings):
    """What the model says turn by turn where all is read each time; and lengths of the prompts."""
    messages, found, lengths = [], [], []
    for said in SAID:
        messages.append({"role": "user", "content": said})
        out = engine.generate(messages, drafter="none", **settings)
        messages.append({"role": "assistant", "content": out.text})
        found.append(out.token_ids)
        lengths.append(out.num_prompt_tokens)
    return found, lengths


@pytest.mark.parametrize("drafter", ["none", "auto", "ngram", "snapkv", "quest", "triforce"])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.9, "seed": 4}], ids=["greedy", "drawn"])
def test_a_turn_is_the_text_of_the_whole_chat_and_reads_what_is_new(engine, drafter, settings):
    settings = {"max_new_tokens": 20, **settings}
    want, lengths = answers(engine, **settings)
    chat = engine.chat(drafter=drafter, **settings)
    with Reading() as reading:
        got = [chat.send(said).token_ids for said in SAID]
    assert got == want
    assert sum(reading.tokens) <= lengths[-1]  # each token of the chat once at most
    assert [m["role"] for m in chat.messages] == ["user", "assistant"] * len(SAID)


def test_settings_of_a_turn_and_a_system(engine):
    chat = engine.chat("be kind", max_new_tokens=8)
    assert len(chat.send("abc", max_new_tokens=3).token_ids) == 3
    assert chat.messages[0] == {"role": "system", "content": "be kind"}
    steps = list(chat.stream("abc"))
    assert "".join(step.text for step in steps) == chat.last.text
    chat.clear()
    assert chat.messages == [{"role": "system", "content": "be kind"}] and chat.last is None
    fresh = engine.chat("be kind", max_new_tokens=8).send("abc").token_ids
    assert chat.send("abc").token_ids == fresh
    with pytest.raises(InvalidArgument, match="one answer"):
        chat.send("abc", n=2)


def test_who_leaves_early_leaves_the_messages_as_they_were(engine):
    chat = engine.chat(max_new_tokens=12, drafter="none")
    chat.send("abc")
    before, last = list(chat.messages), chat.last
    turn = chat.stream("more")
    next(turn)
    turn.close()
    assert chat.messages == before and chat.last is last
    want = engine.generate(
        [*before, {"role": "user", "content": "other"}], max_new_tokens=12, drafter="none"
    )
    assert chat.send("other").token_ids == want.token_ids


@pytest.mark.parametrize("tier", ["host", "disk"])
def test_out_of_slower_memory_the_text_is_the_same(folder, engine, tier):
    want, _ = answers(engine, max_new_tokens=12)
    chat = Engine.from_pretrained(folder, dtype="float64", kv_tier=tier).chat(max_new_tokens=12)
    assert [chat.send(said).token_ids for said in SAID] == want


def test_a_lossy_view_reads_all_again(engine):
    settings = {"view": "streaming", "budget": 24, "sink": 2, "max_new_tokens": 10}
    chat = engine.chat(**settings)
    chat.send("abc abc abc abc abc abc abc")
    messages = [*chat.messages, {"role": "user", "content": "go on"}]
    assert chat.send("go on").token_ids == engine.generate(messages, **settings).token_ids


def test_the_command(folder):
    said = "abc abc\n/stats\n/drafter ngram\n/drafter nothing\nmore\n/clear\n/help\nabc abc\n"
    how = ["chat", "-m", folder, "-n", "9", "--dtype", "float64"]
    told = run(*how, stdin=said)
    assert told.exit_code == 0, told.output
    assert "read what was new in" in told.stderr and "unknown drafter 'nothing'" in told.stderr
    assert "/exit" in told.stderr
    lines = run(*how, "--json", stdin="abc abc\nmore\n/exit\nnever\n").stdout.splitlines()
    first, second = map(json.loads, lines)
    assert first["text"] in told.stdout and second["text"] in told.stdout
    assert second["prompt_tokens"] > first["prompt_tokens"]
