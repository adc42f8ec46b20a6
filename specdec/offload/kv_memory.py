"""KVMemory: the memory that an engine's keys and values may take, and stores made in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from specdec.cache.kv_shape import KVShape
from specdec.cache.store import KVStore
from specdec.errors import InvalidArgument
from specdec.offload.balance import Balance
from specdec.offload.budget import Budget
from specdec.offload.disk import DiskTier
from specdec.offload.memory import free_bytes, free_disk, show_bytes
from specdec.offload.pace import Pace
from specdec.offload.rates import link_rate
from specdec.offload.split import Sizes, Split, split
from specdec.offload.tier import DeviceTier, HostTier, Tier
from specdec.offload.tiered_level import TieredLevel
from specdec.offload.tiered_store import TieredStore

log = logging.getLogger("specdec")

TIERS = ("device", "host", "disk")
_MARGIN = 0.9  # of free memory that is not bounded by an argument


@dataclass
class KVMemory:
    """Settings, and what is counted while stores live.

    tier: "auto" (as near as fits), "device", "host", "disk", or a tier for each layer.
    device_bytes, host_bytes: limits for keys and values, or None for what is free then.
    folder: of the files of the disk tier. sizes: of what stays on the device.
    link: bytes per second, at most, by which remote layers are fetched; to try a slower link on a
        faster one. On a CPU it makes the host tier a remote one, too.
    partials: where attention over the host tier is computed: "auto" (by measured rates), "device",
        after fetching, or "host".
    """

    tier: str | Sequence[str] = "auto"
    device_bytes: int | None = None
    host_bytes: int | None = None
    folder: str | Path | None = None
    sizes: Sizes = field(default_factory=Sizes)
    link: float | None = None
    partials: str = "auto"

    def __post_init__(self) -> None:
        known = (*TIERS, "auto") if isinstance(self.tier, str) else TIERS
        for name in [self.tier] if isinstance(self.tier, str) else self.tier:
            if name not in known:
                raise InvalidArgument(f"kv_tier={name!r} is unknown: give {', '.join(known)}")
        if self.link is not None and self.link <= 0:
            raise InvalidArgument(f"link={self.link} must be positive, in bytes per second")
        self.device = Budget("device", self.device_bytes)
        self.host = Budget("host", self.host_bytes)
        self.pace = Pace(self.link)
        self.balance = Balance(self.pace, self.partials)  # what it learns serves all stores

    @property
    def is_far(self) -> bool:
        """Whether it was told to keep keys and values elsewhere than on the device."""
        tiers = [self.tier] if isinstance(self.tier, str) else self.tier
        return self.link is not None or not {"auto", "device"}.issuperset(tiers)

    def split(self, shape: KVShape, sequences: int, capacity: int, device: torch.device) -> Split:
        """Where the KV of so many sequences and tokens goes. Raises OutOfMemory."""
        if self.tier == "device":
            return Split(None, sequences * capacity * shape.token_bytes)
        if self.tier != "auto":
            tiers = [self.tier] * shape.layers if isinstance(self.tier, str) else list(self.tier)
            if len(tiers) != shape.layers:
                raise InvalidArgument(
                    f"kv_tier names {len(tiers)} tiers, and the model has {shape.layers} layers"
                )
            layer = sequences * capacity * shape.layer_bytes
            needs = {name: tiers.count(name) * layer for name in TIERS}
            return Split(tuple(tiers), needs["device"], needs["host"], needs["disk"])
        is_host = device.type == "cpu"
        here = self._here(device)
        there = self.host_bytes
        if there is None:
            there = 0 if is_host else int(_MARGIN * free_bytes(torch.device("cpu")))
        if is_host and self.device_bytes is not None:
            there = 0  # the device's memory is the host's: it was divided already
        whole = sequences * capacity * shape.token_bytes
        disk = int(_MARGIN * free_disk(self.folder)) if whole > here else 0
        return split(shape, sequences, capacity, self.sizes, device=here, host=there, disk=disk)

    def has_room(self, shape: KVShape, tokens: int, device: torch.device) -> bool:
        """Whether keys and values of so many tokens are to lie on the device, and fit there."""
        if self.tier == "device":
            return True
        return self.tier == "auto" and tokens * shape.token_bytes <= self._here(device)

    def _here(self, device: torch.device) -> int:
        """Bytes that may be taken on the device now."""
        if self.device_bytes is None:
            return int(_MARGIN * free_bytes(device))
        return self.device_bytes - self.device.used

    def store(
        self,
        shape: KVShape,
        sequences: int,
        capacity: int,
        device: torch.device,
        later: Sequence[tuple[int, int]] = (),
    ) -> KVStore:
        """A store whose buffers are counted here, with tiers where they are needed."""
        levels = [(sequences, capacity), *later]
        longest = max(size for _, size in levels)
        rows = -(-sum(count * size for count, size in levels) // longest)  # as if all were so long
        found = self.split(shape, rows, longest, device)
        near: Tier = DeviceTier(self.device)
        if found.tiers is None or (self.tier == "auto" and longest <= self.sizes.hot):
            store = KVStore(shape.layers, sequences, capacity)
            store.levels = [TieredLevel(sequences, capacity, [near] * shape.layers)]
            return store
        if device.type == "cuda" and self.pace.reached is None and found.count("host"):
            self.pace.moved, self.pace.seconds = 1 << 30, (1 << 30) / link_rate(device)
        disk = DiskTier(self.folder, self.pace)
        places: dict[str, Tier] = {
            "device": near,
            "host": HostTier(self.host, self.balance, streams=self.link is not None),
            "disk": disk,
        }
        log.info(
            "KV of %d x %d tokens: %d layers on the device, %d in host memory, %d on disk (%s); "
            "the newest %d tokens on the device",
            rows, longest, *(found.count(name) for name in TIERS),
            show_bytes(found.disk_bytes), self.sizes.window,
        )  # fmt: skip
        tiered = TieredStore(
            sequences, capacity, [places[name] for name in found.tiers], self.device,
            window=self.sizes.window, block=self.sizes.block, room=self.sizes.room,
            staging_bytes=self.sizes.staging_bytes,
        )  # fmt: skip
        counts = ", ".join(f"{name} {found.count(name)}" for name in TIERS if found.count(name))
        tiered.places = counts + (f" at {self.link:g} bytes/s" if self.link else "")
        return tiered
