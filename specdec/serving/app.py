"""The HTTP server: /v1/chat/completions, /v1/completions, /v1/models and /health."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from specdec.decoding.output import Step
from specdec.errors import InvalidArgument, SpecdecError
from specdec.serving.live_batch import LiveBatch, Ticket
from specdec.serving.openai_terms import (
    Answer,
    failure,
    messages_of,
    settings_of,
    streams,
    usage,
)

log = logging.getLogger(__name__)


class Server:
    """Endpoints over a `LiveBatch`; `name` is what the model is called."""

    def __init__(self, batch: LiveBatch, name: str) -> None:
        self.batch, self.name = batch, name

    def app(self) -> Starlette:
        """The application, for any ASGI server."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/completions", self.complete, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/health", self.health),
            ]
        )

    async def models(self, request: Request) -> Response:
        """The one model."""
        model = {"id": self.name, "object": "model", "created": 0, "owned_by": "specdec"}
        return JSONResponse({"object": "list", "data": [model]})

    async def health(self, request: Request) -> Response:
        """That somebody is there."""
        return JSONResponse({"status": "ok"})

    async def chat(self, request: Request) -> Response:
        """Messages go on."""
        return await self._answer(request, "messages")

    async def complete(self, request: Request) -> Response:
        """A text, or token ids, go on."""
        return await self._answer(request, "prompt")

    async def _answer(self, request: Request, field: str) -> Response:
        try:
            body = await request.json()
            if not isinstance(body, Mapping):
                raise InvalidArgument("the body is no JSON object")
            if body.get("model") not in (None, self.name):
                named = f"the model {body['model']!r} is not served: it is {self.name!r} here"
                return JSONResponse(failure(named), 404)
            answering = Answering(self.batch, Answer(self.name, field == "messages"), body, field)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            return JSONResponse(failure(f"the body is no JSON: {error}"), 400)
        except SpecdecError as error:
            return _refusal(error)
        if answering.is_stream:
            return StreamingResponse(answering.events(), media_type="text/event-stream")
        try:
            return JSONResponse(await answering.whole(request))
        except Exception as error:  # of the engine's thread, whatever it is
            return _refusal(error)


class Answering:
    """One request on its way. Raises InvalidArgument for what is not understood."""

    def __init__(
        self, batch: LiveBatch, answer: Answer, body: Mapping[str, Any], field: str
    ) -> None:
        settings = settings_of(body, field)
        self.is_stream, self.shows_usage = streams(body)
        prompt = messages_of(body) if field == "messages" else body[field]
        self.answer = answer
        self.said: asyncio.Queue[Step | Exception | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def hear(said: Step | Exception | None) -> None:
            loop.call_soon_threadsafe(self.said.put_nowait, said)

        self.ticket: Ticket = batch.submit(prompt, settings, hear)
        samples = self.ticket.request.params.num_return_sequences
        self.prompt_tokens = sum(map(len, self.ticket.request.prompts))
        self.texts = [""] * self.ticket.rows
        self.reasons = ["length"] * self.ticket.rows
        self.tokens, self.samples = 0, samples

    async def whole(self, request: Request) -> dict[str, Any]:
        """The answer when all is written; the work ends where the client has gone."""
        while True:
            try:
                said = await asyncio.wait_for(self.said.get(), 1.0)
            except asyncio.TimeoutError:
                if await request.is_disconnected():
                    self.ticket.cancel()
                continue
            if said is None:
                return self.answer.whole(self.texts, self.reasons, self._usage())
            if isinstance(said, Exception):
                raise said
            self._note(said)

    async def events(self) -> AsyncIterator[str]:
        """The answer part by part, as server-sent events."""
        begun: set[int] = set()
        try:
            while (said := await self.said.get()) is not None:
                if isinstance(said, Exception):
                    yield _event(failure(str(said), "server_error"))
                    return
                self._note(said)
                first = said.row not in begun
                begun.add(said.row)
                if said.text or said.finish_reason or first:
                    yield _event(self.answer.part(said.row, said.text, said.finish_reason, first))
            if self.shows_usage:
                yield _event(self.answer.used(self._usage()))
            yield "data: [DONE]\n\n"
        finally:
            self.ticket.cancel()  # the client may have gone

    def _note(self, step: Step) -> None:
        self.texts[step.row] += step.text
        self.tokens += len(step.token_ids)
        if step.finish_reason is not None:
            self.reasons[step.row] = step.finish_reason

    def _usage(self) -> dict[str, int]:
        return usage(self.prompt_tokens, self.tokens)


def _refusal(error: Exception) -> Response:
    """The answer where there is none: 400 for what the client can mend, else 500."""
    if isinstance(error, SpecdecError) and isinstance(error, ValueError):
        return JSONResponse(failure(str(error)), 400)
    if not isinstance(error, SpecdecError):
        log.error("a request has failed", exc_info=error)
    return JSONResponse(failure(str(error), "server_error"), 500)


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
