"""The server over a real socket: its texts are the engine's own, whoever else is served."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvicorn

from specdec import Engine
from specdec.cache.kept_texts import KeptTexts
from specdec.model.target import Target
from specdec.serving import live_batch
from specdec.serving.app import Server
from specdec.serving.listening import listening
from specdec.serving.live_batch import LiveBatch

from helpers import letters
from helpers.command import run

TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = letters.save(tmp_path_factory.mktemp("served") / "letters")
    (Path(folder) / "chat_template.jinja").write_text(TEMPLATE)
    return Engine.from_pretrained(folder, dtype="float64")


@pytest.fixture(scope="module")
def batch(engine):
    batch = LiveBatch(engine, slots=3, tokens=200, kept_bytes=1 << 24)
    yield batch
    batch.close()


@pytest.fixture(scope="module")
def port(batch):
    with listening("127.0.0.1", 0) as place:
        server = uvicorn.Server(uvicorn.Config(Server(batch, "m").app(), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield place.getsockname()[1]
        server.should_exit = True
        thread.join()


def ask(port, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    if body is None:
        connection.request("GET", path)
    else:
        sent = body if isinstance(body, str) else json.dumps(body)
        connection.request("POST", path, sent, {"Content-Type": "application/json"})
    response = connection.getresponse()
    said = response.read().decode()
    connection.close()
    return response.status, said


def asked(port, path, **body):
    status, text = ask(port, path, body)
    assert status == 200, text
    return json.loads(text)


def events(port, path, **body):
    status, text = ask(port, path, {**body, "stream": True})
    assert status == 200, text
    *found, last = [line[6:] for line in text.split("\n\n") if line]
    assert last == "[DONE]"
    return [json.loads(one) for one in found]


def test_models_and_health(port):
    assert json.loads(ask(port, "/v1/models")[1])["data"][0]["id"] == "m"
    assert json.loads(ask(port, "/health")[1]) == {"status": "ok"}


def test_a_chat_is_the_engines_text(port, engine):
    messages = [{"role": "user", "content": "abc abc abc"}]
    want = engine.generate(messages, drafter="none", max_new_tokens=20)
    found = asked(port, "/v1/chat/completions", messages=messages, temperature=0, max_tokens=20)
    assert found["object"] == "chat.completion" and found["model"] == "m"
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": want.text}
    assert choice["finish_reason"] == want.finish_reason == "length"
    assert found["usage"] == {
        "prompt_tokens": want.num_prompt_tokens, "completion_tokens": 20,
        "total_tokens": want.num_prompt_tokens + 20,
    }  # fmt: skip


def test_parts_are_the_whole(port, engine):
    how = {"prompt": "xyz xyz", "temperature": 0.8, "seed": 5, "max_tokens": 16, "n": 2}
    want = engine.generate(
        "xyz xyz", drafter="none", temperature=0.8, seed=5, max_new_tokens=16, n=2
    )
    whole = asked(port, "/v1/completions", **how)
    assert [c["text"] for c in whole["choices"]] == [g.text for g in want]
    parts = events(port, "/v1/completions", **how, stream_options={"include_usage": True})
    assert parts[-1]["choices"] == [] and parts[-1]["usage"]["completion_tokens"] == 32
    for index, one in enumerate(want):
        mine = [p["choices"][0] for p in parts[:-1] if p["choices"][0]["index"] == index]
        assert "".join(c["text"] for c in mine) == one.text
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == ["length"]
    first = events(port, "/v1/chat/completions", messages=[{"role": "user", "content": "a"}])[0]
    assert first["choices"][0]["delta"]["role"] == "assistant"


def test_many_clients_at_once_get_what_each_gets_alone(port, engine):
    prompts = ["ab" * n + " " + "q" * (n % 5) for n in range(1, 13)]
    news = [5 + 3 * (n % 7) for n in range(12)]
    want = [
        engine.generate(p, drafter="none", temperature=0.9, seed=n, max_new_tokens=m).text
        for n, (p, m) in enumerate(zip(prompts, news, strict=True))
    ]

    def one(n):
        body = {"temperature": 0.9, "seed": n, "max_tokens": news[n]}
        return asked(port, "/v1/completions", prompt=prompts[n], **body)["choices"][0]["text"]

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(one, range(12))) == want


def test_what_was_read_is_not_read_again(port, engine, monkeypatch):
    read, prefill = [], Target.prefill

    def counted(target, store, view, sequence, tokens, *rest):
        read.append(len(tokens))
        return prefill(target, store, view, sequence, tokens, *rest)

    monkeypatch.setattr(Target, "prefill", counted)
    messages = [{"role": "user", "content": "hello there " * 4}]
    mine = alone = 0
    for _ in range(3):
        read.clear()
        how = {"messages": messages, "temperature": 0, "max_tokens": 10}
        text = asked(port, "/v1/chat/completions", **how)["choices"][0]["message"]["content"]
        mine += sum(read)
        read.clear()
        assert text == engine.generate(messages, drafter="none", max_new_tokens=10).text
        alone, last = alone + sum(read), sum(read)
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "on"}]
    assert mine <= last < alone  # each token of the chat once at most


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": "a", "temprature": 1}, "temprature is not understood"),
        ({"prompt": "a", "logprobs": 3}, "logprobs is not supported"),
        ({}, "prompt is missing"),
        ({"prompt": "a", "top_p": 7}, "top_p"),
        ({"prompt": "a" * 150, "max_tokens": 100}, "a slot has 200"),
        ({"prompt": ["a", 3]}, "prompt"),
        ("{no json", "Expecting"),
        ([1], "no JSON object"),
    ],
)
def test_what_is_not_understood_is_named(port, body, message):
    status, text = ask(port, "/v1/completions", body)
    assert status == 400 and message in json.loads(text)["error"]["message"]


def test_pictures_come_in_the_message_or_not_at_all(port):
    part = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    status, text = ask(port, "/v1/chat/completions", body)
    assert status == 400 and "fetched from nowhere" in text
    part["image_url"]["url"] = "data:image/png;base64,AAAA"
    status, text = ask(port, "/v1/chat/completions", body)
    assert status == 400 and "holds no image" in text


def test_a_client_that_goes_frees_its_slots(port, batch):
    body = json.dumps({"prompt": "a", "max_tokens": 190, "stream": True, "n": 3})
    with socket.create_connection(("127.0.0.1", port)) as client:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall((head + body).encode())
        assert b"200" in client.recv(64)
    assert (
        asked(port, "/v1/completions", prompt="b", max_tokens=3)["usage"]["completion_tokens"] == 3
    )


def test_errors_of_the_engine_reach_those_who_wait(port, monkeypatch):
    def broken(*_):
        raise RuntimeError("a fuse has blown")

    with monkeypatch.context() as patched:
        patched.setattr(Target, "forward", broken)
        parts = ask(port, "/v1/completions", {"prompt": "a", "stream": True})[1]
        assert "a fuse has blown" in parts
    assert asked(port, "/v1/completions", prompt="b", max_tokens=2)["choices"][0]["text"]


def test_texts_are_kept_as_room_allows():
    class Text:
        nbytes = 10

        def __init__(self, *tokens):
            self.tokens = list(tokens)

        def common(self, tokens):
            pairs = zip(self.tokens, tokens, strict=False)
            return next(
                (i for i, (a, b) in enumerate(pairs) if a != b), min(len(self.tokens), len(tokens))
            )

    kept = KeptTexts(25)
    one, two, three = Text(1, 2), Text(3, 4), Text(5, 6)
    kept.add(one)
    kept.add(two)
    assert kept.nearest([1, 2, 9]) is one and kept.nearest([7]) is None
    kept.add(three)  # two was used longest ago
    assert kept.nearest([3, 4]) is None and kept.nbytes == 20
    longer = Text(1, 2, 9)
    kept.add(longer)  # in the place of what it begins with
    assert kept.nearest([1, 2]) is longer and kept.nearest([5]) is three


def test_who_waits_for_the_next_stream_joins_it_together(engine, monkeypatch):
    """A stream takes so many rows and no more; all that have come since are in the next one."""
    monkeypatch.setattr(live_batch, "_ROWS", 3)
    opened, open_stream = [], Engine._stream

    def counted(*args):
        opened.append(args)
        return open_stream(*args)

    monkeypatch.setattr(Engine, "_stream", counted)
    batch = LiveBatch(engine, 3, 64, 0)
    heard = [[] for _ in range(9)]
    for said in heard:
        batch.submit("abc", {"max_new_tokens": 8, "temperature": 0.0}, said.append)
    while not all(None in said for said in heard):
        time.sleep(0.01)
    batch.close()
    assert len(opened) <= 4  # the first may begin before the others have come
    assert len({"".join(step.text for step in said[:-1]) for said in heard}) == 1


def test_a_closed_batch_refuses_what_waits(engine):
    batch = LiveBatch(engine, 1, 64, 0)
    heard = []
    batch.submit("a", {"max_new_tokens": 4, "temperature": 0.0}, heard.append)
    while None not in heard:
        time.sleep(0.01)
    batch.close()
    assert sum(len(step.token_ids) for step in heard[:-1]) == 4


def test_the_command_serves_until_it_is_interrupted(tmp_path):
    folder = letters.save(tmp_path / "letters")
    command = [
        sys.executable,
        "-P",
        "-m",
        "specdec",
        "serve",
        "-m",
        folder,
        "--port",
        "0",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            about = json.loads(process.stdout.readline())
            port = int(about["url"].split(":")[2].split("/")[0])
            assert asked(port, "/v1/completions", prompt="a", max_tokens=3)["model"] == folder
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        assert process.returncode in (0, 130)


def test_a_name_is_not_empty():
    told = run("serve", "--name", "", "-m", "demo")
    assert told.exit_code == 2 and "--name is empty" in told.stderr


def test_a_port_that_is_taken_is_named(port):
    told = run("serve", "--port", str(port), "-m", "demo")
    assert told.exit_code == 2 and f"--port {port}" in told.stderr
