"""Balance: whether attention over host memory is computed there, or on the device."""

from __future__ import annotations

from specdec.errors import InvalidArgument
from specdec.offload.pace import Pace

PLACES = ("auto", "device", "host")
_MEMORY = 0.8  # of the running mean of a rate


class Balance:
    """Chooses by bytes per second: those of the link, and those that the CPU reads in place.

    The CPU's rate depends on how many queries share a key, so it is kept by powers of two of them,
    and tried where it is unknown. place: "device" always fetches, "host" never does.
    """

    def __init__(self, pace: Pace, place: str = "auto") -> None:
        if place not in PLACES:
            raise InvalidArgument(f"partials={place!r} is unknown: give {', '.join(PLACES)}")
        self.pace, self.place = pace, place
        self.rates: dict[int, float] = {}

    def on_host(self, queries: int) -> bool:
        """Whether a partial of so many queries is to be computed where the keys lie."""
        if self.place != "auto":
            return self.place == "host"
        link = self.pace.reached
        if link is None:
            return False  # the first pass measures the link
        rate = self.rates.get(queries.bit_length())
        return rate is None or rate > link

    def note(self, queries: int, nbytes: int, seconds: float) -> None:
        """Learn from a partial that was computed on the host."""
        rate, octave = nbytes / max(seconds, 1e-9), queries.bit_length()
        known = self.rates.get(octave, rate)
        self.rates[octave] = _MEMORY * known + (1 - _MEMORY) * rate
