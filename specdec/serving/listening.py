"""A socket to listen on, before anything is served, so that its address can be said."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from specdec.errors import InvalidArgument


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to an address; port 0 takes a free one. Raises InvalidArgument."""
    try:
        found = socket.create_server((host, port))
    except OSError as error:
        raise InvalidArgument(f"--host {host} --port {port}: {error.strerror}") from error
    with found:
        yield found
