"""Split: which layer's keys and values go to which tier."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.cache.kv_shape import KVShape
from specdec.errors import OutOfMemory
from specdec.offload.memory import show_bytes


@dataclass(frozen=True)
class Sizes:
    """Of a tiered store. window: newest tokens that stay on the device. block: tokens that move at
    a time. room: tokens that may be staged at a time. staging_bytes: of each of two buffers."""

    window: int = 1024
    block: int = 256
    room: int = 1024
    staging_bytes: int = 16 << 20

    @property
    def hot(self) -> int:
        """Tokens of the level on the device."""
        return self.window + self.block + self.room


@dataclass(frozen=True)
class Split:
    """Tiers of all layers' older tokens; None where everything stays on the device.

    device_bytes, host_bytes, disk_bytes: what the KV will take of each.
    """

    tiers: tuple[str, ...] | None
    device_bytes: int
    host_bytes: int = 0
    disk_bytes: int = 0

    def count(self, tier: str) -> int:
        """Layers whose older tokens lie there."""
        return 0 if self.tiers is None else self.tiers.count(tier)


def split(
    shape: KVShape,
    sequences: int,
    capacity: int,
    sizes: Sizes,
    *,
    device: int,
    host: int,
    disk: int,
) -> Split:
    """Put as many leading layers on the device as fit, the next into host memory, the rest on disk.

    device, host, disk: bytes that the KV may take there. Raises OutOfMemory, with the smallest
    change that would do, where all three together are too small.
    """
    whole = sequences * capacity * shape.token_bytes
    if whole <= device or capacity <= sizes.hot:
        if whole > device:
            raise OutOfMemory(_too_small("device", whole, device))
        return Split(None, whole)
    layer = sequences * capacity * shape.layer_bytes
    least = resident_bytes(shape, sequences, capacity, sizes)
    if least > device:
        raise OutOfMemory(_too_small("device", least, device))
    near = min(shape.layers, (device - least) // layer)
    warm = min(shape.layers - near, host // layer)
    cold = shape.layers - near - warm
    if cold * layer > disk:
        missing = cold * layer - disk
        raise OutOfMemory(
            f"keys and values of {sequences} x {capacity:,} tokens take {show_bytes(whole)}: "
            f"{near} layers fit on the device, {warm} in host memory, and the other {cold} need "
            f"{show_bytes(cold * layer)} on disk, where {show_bytes(disk)} may be taken. Allow "
            f"{show_bytes(missing)} more of one of them, or use a shorter context: "
            f"{_fitting(shape, sequences, sizes, device, host, disk):,} tokens would fit"
        )
    tiers = ("device",) * near + ("host",) * warm + ("disk",) * cold
    return Split(tiers, least + near * layer, warm * layer, cold * layer)


def resident_bytes(shape: KVShape, sequences: int, capacity: int, sizes: Sizes) -> int:
    """What stays on the device whatever moves: the hot level, the staging buffers, a draft's own
    level, and a sixteenth of the text for index data and what a draft view gathers."""
    tokens = sequences * (sizes.hot + sizes.room + capacity // 16)
    return tokens * shape.token_bytes + 2 * sizes.staging_bytes


def _fitting(
    shape: KVShape, sequences: int, sizes: Sizes, device: int, host: int, disk: int
) -> int:
    """The longest context that would fit."""
    fixed = resident_bytes(shape, sequences, 0, sizes)
    return max(
        0, int((device + host + disk - fixed) / (shape.token_bytes * sequences) / (1 + 1 / 16))
    )


def _too_small(where: str, needed: int, there: int) -> str:
    return (
        f"keys and values need at least {show_bytes(needed)} of {where} memory, and "
        f"{show_bytes(there)} may be taken: allow {show_bytes(needed - there)} more (max_memory=), "
        "or decode fewer sequences or tokens"
    )
