"""IkLlamaCpp: ik_llama.cpp through ik-llama-cpp-python, timed pass by pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from specdec.bench.llama_cpp import file_of
from specdec.errors import InvalidArgument


class IkLlamaCpp:
    """Prompts and plain steps by ik_llama.cpp with as many threads as we use.

    Its package reads and writes texts as a whole; passes are asked for one level below. It turns
    its flash attention off where it was not built for this machine's integer products.
    """

    def __init__(self, name: str, file: Path, context: int) -> None:
        package = _package()
        self.name = name
        self._inside: Any = package.llama
        self._model: Any = package.IkLlama(
            str(file), n_ctx=context, n_threads=torch.get_num_threads(), verbose=False
        )
        self._length = 0

    def read(self, ids: list[int]) -> None:
        """See `Stepper`."""
        self._model._context.kv_cache_clear()
        self._length = 0
        size = self._model._context._n_ubatch
        for start in range(0, len(ids), size):
            self._decode(ids[start : start + size], start + size >= len(ids))

    def step(self, token: int) -> None:
        """See `Stepper`."""
        self._decode([token], True)

    def _decode(self, ids: list[int], is_last: bool) -> None:
        batch = self._inside.make_batch_range(ids, pos_start=self._length, logits_last=is_last)
        failed = self._model._context.decode(batch)
        self._inside.C.llama_batch_free(batch)
        if failed:
            raise InvalidArgument(f"{self.name} gave up on {len(ids)} tokens (code {failed})")
        self._length += len(ids)


def stepper(name: str, model: Any, context: int) -> IkLlamaCpp:
    """`ik_llama.cpp` on the GGUF that `model` came from. Raises InvalidArgument if the package is
    missing, or the model did not come from a GGUF."""
    _package()
    return IkLlamaCpp(name, file_of(model, name), context)


def _package() -> Any:
    try:
        import ik_llama_cpp
    except ImportError as error:
        raise InvalidArgument(
            "baseline 'ik_llama.cpp' needs ik-llama-cpp-python: run `pip install "
            "ik-llama-cpp-python`, or leave the baseline out"
        ) from error
    return ik_llama_cpp
