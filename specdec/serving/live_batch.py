"""LiveBatch: requests of many clients, decoded together, that come and go at any time."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from specdec.cache.kept_texts import KeptTexts
from specdec.cache.slots import Slots
from specdec.decoding.output import Step
from specdec.decoding.request import Request
from specdec.decoding.stream import GenerationStream
from specdec.engine import Engine
from specdec.errors import InvalidArgument, SpecdecError

_ROWS = 512  # after which a stream takes no more rows, so that what it keeps of them is let go


class Ticket:
    """A request that was handed in. `cancel` may be called from any thread.

    sink: called in the engine's thread with each `Step`, whose row is counted within the request,
    and at the end with None, or with the error that ended it.
    """

    def __init__(self, request: Request, sink: Callable[[Step | Exception | None], None]) -> None:
        self.request, self.sink = request, sink
        self.rows = len(request.prompts) * request.params.num_return_sequences
        self.left = self.rows
        self.is_cancelled = False

    def cancel(self) -> None:
        """Write no more of it; its slots are free after the round."""
        self.is_cancelled = True


class LiveBatch:
    """An engine that decodes what it is handed in one batch, in a thread of its own.

    Rows join between two rounds when a slot is free, and leave when they are done; what a row's
    text is does not depend on its neighbours. Texts that were read stay in memory for prompts that
    begin alike.

    slots: texts at a time. tokens: of each, prompt and answer. kept_bytes: of texts that stay.
    settings: of every request, as for `Engine.generate`; they say drafter and view.
    """

    def __init__(
        self, engine: Engine, slots: int, tokens: int, kept_bytes: int, **settings: Any
    ) -> None:
        self.engine, self.settings = engine, settings
        most = min(tokens, engine.target.longest_text)
        self.slots = Slots(slots, most, engine.target.shares_text)
        self.kept = KeptTexts(kept_bytes)
        self._inbox: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._later: deque[Ticket] = deque()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="specdec", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt: Any,
        settings: dict[str, Any],
        sink: Callable[[Step | Exception | None], None],
    ) -> Ticket:
        """Hand a request in; it is checked at once. Raises InvalidArgument, also where a slot has
        no room for it."""
        request = self.engine._request(prompt, None, {**self.settings, **settings})
        for ids in request.prompts:
            most = len(ids) + request.params.most_new_tokens(len(ids))
            if most > self.slots.tokens:
                raise InvalidArgument(
                    f"a prompt of {len(ids)} tokens and {most - len(ids)} new ones make {most}, "
                    f"and a slot has {self.slots.tokens}: ask for fewer, or start the server with "
                    "more"
                )
        request = replace(request, saved_prompt=request.saved_prompt or self.kept)
        ticket = Ticket(request, sink)
        self._inbox.put(ticket)
        return ticket

    def close(self) -> None:
        """Finish what was begun, refuse what waits, and end the thread."""
        self._is_closed = True
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closed:
            ticket = self._later.popleft() if self._later else self._inbox.get()
            if ticket is not None:
                self._decode(ticket)
        waiting = [*self._later, *self._arrived()]
        for ticket in waiting:
            ticket.sink(SpecdecError("the server is closing"))

    def _decode(self, first: Ticket) -> None:
        """A stream, from its first request to when nobody is left in it."""
        places: dict[int, tuple[Ticket, int]] = {}
        try:
            stream = self.engine._stream(first.request, self.kept.add, self.slots)
            places |= {row.index: (first, place) for place, row in enumerate(stream.rows)}
            with stream:
                self._admit(stream, places)
                while (step := next(stream, None)) is not None:
                    ticket, place = places[step.row]
                    self._tell(ticket, replace(step, row=place))
                    self._admit(stream, places)
        except Exception as error:  # whatever it is, those who wait must hear of it
            for ticket in {id(first): first, **{id(t): t for t, _ in places.values()}}.values():
                if ticket.left:
                    ticket.left = 0
                    ticket.sink(error)

    def _tell(self, ticket: Ticket, step: Step) -> None:
        if not ticket.left:
            return
        ticket.sink(step)
        if step.finish_reason is not None:
            ticket.left -= 1
            if not ticket.left:
                ticket.sink(None)

    def _admit(self, stream: GenerationStream, places: dict[int, tuple[Ticket, int]]) -> None:
        """Between two rounds: let those go that were cancelled, and take up who has come."""
        gone = {index: t for index, (t, _) in places.items() if t.is_cancelled and t.left}
        for index in gone:
            stream.cancel(index)
        for ticket in gone.values():
            if ticket.left:
                ticket.left = 0
                ticket.sink(None)
        waiting = [*self._later, *self._arrived()]
        self._later.clear()
        for ticket in waiting:
            if ticket.is_cancelled:
                ticket.sink(None)
            elif self._later or len(stream.rows) + ticket.rows > _ROWS or self._is_closed:
                self._later.append(ticket)
            else:
                self._join(ticket, stream, places)

    def _join(
        self, ticket: Ticket, stream: GenerationStream, places: dict[int, tuple[Ticket, int]]
    ) -> None:
        try:
            rows = stream.add(ticket.request)
        except InvalidArgument:  # it has another drafter or view, and so a stream of its own
            self._later.append(ticket)
            return
        places |= {row.index: (ticket, place) for place, row in enumerate(rows)}

    def _arrived(self) -> list[Ticket]:
        found: list[Ticket] = []
        while not self._inbox.empty():
            ticket = self._inbox.get()
            if ticket is not None:
                found.append(ticket)
        return found
