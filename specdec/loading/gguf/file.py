"""GGUFFile: metadata and tensors of a GGUF, its shards read as one, mapped into memory."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdec.errors import WeightsError
from specdec.loading.gguf.parse import Parsed, parse
from specdec.loading.gguf.tensor import Tensor
from specdec.loading.mapped import forget, map_file

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class GGUFFile:
    """What a GGUF holds: `fields` by key, as plain values and lists, and `tensors` by name.

    The tensors' blocks are views of the file, which stays mapped as long as they live.
    """

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def open(cls, path: Path) -> GGUFFile:
        """Read the file, or all shards of which it is one. Raises WeightsError, with the reason."""
        first = _mapped(path)
        shards = [first]
        if int(first.fields.get("split.count", 1)) > 1:
            shards = [_mapped(name) for name in _shard_paths(path, first)]
            _check_shards(shards)
        fields: dict[str, Any] = {}
        tensors: dict[str, Tensor] = {}
        for shard in shards:
            for key, value in shard.fields.items():
                if key in fields and fields[key] != value and not key.startswith("split."):
                    raise WeightsError(f"the shards of {path} differ in {key}: they do not belong")
                fields.setdefault(key, value)
            for name, tensor in shard.tensors.items():
                if tensors.setdefault(name, tensor) is not tensor:
                    raise WeightsError(f"two shards of {path} hold {name}: they do not belong")
        return cls(path, fields, tensors)

    def forget(self, names: Iterable[str]) -> None:
        """Let go of the memory that some tensors' pages take; who reads them again has them read
        from the file again."""
        for name in names:
            forget(self.tensors[name].data)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.data.nbytes for tensor in self.tensors.values())


def _mapped(path: Path) -> Parsed:
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise WeightsError(f"{path} is not a GGUF file: it does not start with 'GGUF'")
        return parse(map_file(path), path)
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def _shard_paths(path: Path, shard: Parsed) -> list[Path]:
    """All shards of which `path` is one, in order; raises WeightsError for one that is missing."""
    count = int(shard.fields["split.count"])
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise WeightsError(
            f"{path} is one of {count} shards, and its name does not say which: name them "
            f"NAME-00001-of-{count:05d}.gguf and so on, as they were split"
        )
    paths = [
        path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}{path.suffix}")
        for number in range(1, count + 1)
    ]
    missing = [other.name for other in paths if not other.is_file()]
    if missing:
        raise WeightsError(f"{path.parent} lacks {missing[0]}, one of {count} shards of a model")
    return paths


def _check_shards(shards: list[Parsed]) -> None:
    for number, shard in enumerate(shards):
        if (shard.fields.get("split.no"), shard.fields.get("split.count")) != (number, len(shards)):
            raise WeightsError(
                f"{shard.path} says that it is shard {shard.fields.get('split.no')} of "
                f"{shard.fields.get('split.count')}, counted from 0: it is not the file it is named"
            )
    found = sum(len(shard.tensors) for shard in shards)
    said = int(shards[0].fields.get("split.tensors.count", found))
    if said != found:
        raise WeightsError(
            f"the {len(shards)} shards of {shards[0].path} hold {found} tensors instead of {said}"
        )
