"""Requests for what is not there: an answer in JSON, 400 or 404, that says what is wrong."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.requests import Request

from specdec import Engine
from specdec.serving.app import Server
from specdec.serving.live_batch import LiveBatch

from helpers import letters

TEMPLATE = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}\n{% endfor %}"
A = {"prompt": "a", "max_tokens": 3}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = letters.save(tmp_path_factory.mktemp("served") / "letters", positions=300)
    (Path(folder) / "chat_template.jinja").write_text(TEMPLATE)
    return Engine.from_pretrained(folder, dtype="float64")


@pytest.fixture(scope="module")
def server(engine: Engine) -> Any:
    batch = LiveBatch(engine, slots=2, tokens=400, kept_bytes=0)
    yield Server(batch, "m")
    batch.close()


def asked(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
    """The status and the body of an answer, or the parts of a stream; no socket in between."""
    sent = {"type": "http.request", "body": json.dumps(body).encode()}

    async def receive() -> dict[str, Any]:
        return sent

    async def answer() -> tuple[int, Any]:
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        ask = server.chat if "messages" in body else server.complete
        response = await ask(request)
        if hasattr(response, "body_iterator"):
            return response.status_code, [part async for part in response.body_iterator]
        return response.status_code, json.loads(response.body)

    return asyncio.run(answer())


def picture(size: tuple[int, int] = (4, 4)) -> str:
    data = io.BytesIO()
    Image.new("1", size).save(data, "png")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def shown(**part: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", **part}]}]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({**A, "max_tokens": 0}, "max_tokens=0 is not a whole number"),
        ({**A, "n": 0}, "n=0 is not"),
        ({**A, "stop": ""}, "stop holds an empty string"),
        ({**A, "max_completion_tokens": 5}, "max_tokens and max_completion_tokens differ"),
        ({**A, "stream": "false"}, "stream='false': give true or false"),
        ({**A, "stream": 1}, "stream=1"),
        ({**A, "stream_options": {"include_usage": True}}, "are of a stream"),
        ({**A, "stream": True, "stream_options": "x"}, "stream_options is no object"),
        ({**A, "stream": True, "stream_options": {"fast": 1}}, "stream_options.fast is not"),
        ({**A, "stream": True, "stream_options": {"include_usage": 1}}, "include_usage=1"),
        ({**A, "logprobs": 0}, "logprobs is not supported"),
        ({**A, "logit_bias": {"x": 1}}, "logit_bias={'x': 1}"),
        ({**A, "prompt": "a" * 301}, "has 300 positions"),
        (shown(image_url=picture()), "image_url is no object"),
        (shown(image_url={"url": picture(), "detail": "low"}), "detail is not supported"),
        (shown(image_url={"url": picture(), "size": 3}), "size of an image is not understood"),
        (shown(image_url={"url": picture((14000, 14000))}), "image_url is too large"),
        (shown(image_url={"url": picture()[:-40]}), "image_url holds no image"),
        (shown(image_url={"url": picture()}), "LlamaForCausalLM reads text alone"),
    ],
)
def test_what_cannot_be_had_is_said(server: Server, body: dict[str, Any], said: str) -> None:
    status, answer = asked(server, body)
    assert status == 400 and said in answer["error"]["message"], answer
    assert answer["error"]["type"] == "invalid_request_error"


def test_another_model_is_not_served(server: Server) -> None:
    for name in ("gpt-4", 7):
        status, answer = asked(server, {**A, "model": name})
        assert status == 404 and "it is 'm' here" in answer["error"]["message"]
    for named in ({"model": "m"}, {"model": None}):
        assert asked(server, {**A, **named})[0] == 200


def test_token_ids_of_biases_are_texts_in_json(server: Server, engine: Engine) -> None:
    wanted = engine.generate("a", max_new_tokens=3, logit_bias={5: 100.0}).text
    status, answer = asked(server, {**A, "temperature": 0, "logit_bias": {"5": 100.0}})
    assert status == 200 and answer["choices"][0]["text"] == wanted == letters.LETTERS[5] * 3


def test_tokens_are_counted_where_that_is_wanted(server: Server) -> None:
    for options, counted in ((None, False), ({"include_usage": True}, True)):
        status, parts = asked(server, {**A, "stream": True, "stream_options": options})
        assert status == 200 and ('"usage"' in "".join(parts)) == counted


def test_what_breaks_inside_is_told_in_json(
    server: Server, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a fuse has blown")

    monkeypatch.setattr(type(engine.target), "forward", broken)
    status, answer = asked(server, A)
    assert status == 500 and answer["error"] == {
        "message": "a fuse has blown", "type": "server_error", "param": None, "code": None,
    }  # fmt: skip
