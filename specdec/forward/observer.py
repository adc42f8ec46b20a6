"""Observer: somebody who looks at what layers hand to attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.attention_call import AttentionCall


class SeenPass(Protocol):
    """A `ForwardPass`, as far as observers know it. is_chunk: of a prompt, which reads all."""

    @property
    def store(self) -> KVStore: ...

    @property
    def sequences(self) -> Sequence[int]: ...

    @property
    def positions(self) -> Tensor: ...

    @property
    def is_chunk(self) -> bool: ...


class Observer(Protocol):
    """Sees each layer's attention call of a pass, for which layers are called one by one."""

    def see(self, call: AttentionCall, pass_: SeenPass) -> None:
        """A call of a pass, whose keys and values have been staged."""
