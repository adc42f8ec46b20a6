"""SavedPrompt: the keys and values of a prompt in a folder, so that a book is read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from specdec.cache.kept_text import write_text
from specdec.cache.saved_text import num_common
from specdec.cache.store import KVStore
from specdec.cachedir import sha256_of
from specdec.errors import InvalidArgument, WeightsError
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.model.chunks import PREFILL_CHUNK
from specdec.model.support import probe
from specdec.model.target import Target
from specdec.offload.prompt_folder import PromptFolder, layer_name, write_note
from specdec.sampling.prompt import Prompt

SEAM = 16  # most last tokens that may differ: text cut elsewhere is also tokenized otherwise
_TOLERANCE = 2e-3  # of the largest logit; other machines round otherwise
_LOGITS = 64
_SIZES = ("architecture", "layers", "kv_heads", "head_dim", "vocab_size", "dtype")


class SavedPrompt:
    """What a `PromptFolder` holds; made by `save`.

    tokens: what has been read, as `Prompt.keys` tells it from all else. Raises InvalidArgument for
    a folder that holds no saved prompt, and from `check` for one of another model; WeightsError for
    files that are damaged or another's. argument: what a call names it by.
    """

    def __init__(self, folder: str | Path, argument: str = "saved_prompt") -> None:
        kept = PromptFolder(folder)
        self.folder = kept.folder
        self._named = f"{argument}={str(self.folder)!r}"
        document = kept.read(argument)
        self.tokens: list[int] = document["tokens"]
        self.about: dict[str, Any] = document["model"]
        self._sha256: dict[str, str] = document["files"]

    def check(self, target: Target) -> None:
        """Raise InvalidArgument, with the difference, unless this is the model that read it."""
        _check_whole(target)
        mine = describe(target)
        for name in _SIZES:
            if mine[name] != self.about.get(name):
                raise InvalidArgument(
                    f"{self._named} was read by another model: {name} is "
                    f"{self.about.get(name)!r} there and {mine[name]!r} here"
                )
        ours, theirs = torch.tensor(mine["logits"]), torch.tensor(self.about["logits"])
        gap = float((ours - theirs).abs().max())
        if not gap <= _TOLERANCE * max(1.0, float(theirs.abs().max())):
            raise InvalidArgument(
                f"{self._named} was read by other weights of this architecture: logits differ by "
                f"{gap:.3g}"
            )

    def nearest(self, tokens: Sequence[int]) -> SavedPrompt:
        """Itself, whatever the prompt."""
        return self

    def common(self, tokens: Sequence[int]) -> int:
        """How many of the saved tokens `tokens` starts with, both as `Prompt.keys` gives them."""
        return num_common(self.tokens, tokens)

    def check_starts(self, tokens: Sequence[int]) -> None:
        """Raise InvalidArgument unless `tokens` starts with the saved ones, but for the last SEAM,
        or for half of them where they are few."""
        count, saved = self.common(tokens), len(self.tokens)
        if count < saved - min(SEAM, saved // 2):
            raise InvalidArgument(
                f"the prompt does not start with {self._named}: token {count} of {saved} "
                f"{'differs' if count < len(tokens) else 'is missing'}. Start the prompt with the "
                "same text, or leave it out"
            )

    def load(self, target: Target, store: KVStore, sequence: int, count: int) -> None:
        """Commit the first `count` tokens' keys and values to an empty row of a store.

        All files are checked before anything is written to the store.
        """
        with ExitStack() as opened:
            files = [self._open(opened, layer, target) for layer in range(target.num_layers)]

            def read(layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
                k, v = (
                    files[layer].get_slice(name)[:, start:end].to(target.device)
                    for name in ("k", "v")
                )
                return k, v

            write_text(store, sequence, target.num_layers, count, read)

    def layers(self, target: Target) -> Iterator[tuple[Tensor, Tensor]]:
        """All keys and values, layer by layer, on the host: `[Hkv, T, D]` and `[Hkv, T, Dv]`."""
        for layer in range(target.num_layers):
            with ExitStack() as opened:
                file = self._open(opened, layer, target)
                yield file.get_tensor("k"), file.get_tensor("v")

    def _open(self, opened: ExitStack, layer: int, target: Target) -> Any:
        """A layer's file, closed with `opened`. Raises WeightsError unless it is the one that was
        written for these tokens."""
        path = self.folder / layer_name(layer)
        wanted = {"tokens": len(self.tokens), "dtype": target.dtype}
        try:
            file = opened.enter_context(safe_open(str(path), framework="pt"))
            for name in ("k", "v"):
                part = file.get_slice(name)
                found = {"tokens": part.get_shape()[1], "dtype": part[:, :1].dtype}
                if found != wanted:
                    raise WeightsError(f"{path} is not of this saved prompt: {found}, not {wanted}")
            if sha256_of(path) != self._sha256.get(path.name):
                raise WeightsError(f"{path} is not what was saved: save the prompt again")
        except (OSError, SafetensorError, ValueError, IndexError) as error:
            raise WeightsError(f"{path} cannot be read: {error}") from error
        return file


def save(target: Target, prompt: Prompt, folder: str | Path) -> SavedPrompt:
    """Read a prompt and write its keys and values to `folder`, which is replaced as a whole.

    Raises InvalidArgument, before anything is read, for a folder that holds anything else, which is
    left as it is, and where there is no room.
    """
    _check_whole(target)
    place = PromptFolder(folder)
    tokens = prompt.ids
    with place.replacing(len(tokens) * target.kv_shape.token_bytes) as unfinished:
        store = target.new_store(1, len(tokens) + PREFILL_CHUNK)
        content = None if prompt.is_plain else prompt
        target.prefill(store, FullView(), 0, tokens, content=content)
        for layer in range(target.num_layers):
            save_file(_layer(store, layer), unfinished / layer_name(layer))
        write_note(unfinished, {"model": describe(target), "tokens": prompt.keys})
    return SavedPrompt(folder)


def _check_whole(target: Target) -> None:
    """Raise InvalidArgument where this process has only some of the model's heads."""
    if target.is_parallel:
        raise InvalidArgument(
            "saved prompts hold all heads, and each of several processes has some of them: start "
            "one process, or leave the saved prompt out"
        )


def describe(target: Target) -> dict[str, Any]:
    """What tells one model from another: its sizes, and logits of a few tokens."""
    config = target.model.config.get_text_config()
    heads = config.num_attention_heads
    tokens = probe(target.model)[0].tolist()
    store = KVStore(target.num_layers, 1, len(tokens))
    positions = torch.arange(len(tokens), device=target.device)[None]
    logits = target.forward([tokens], ForwardPass(store, FullView(), [0], positions))
    last = logits[0, -1].float().cpu()
    return {
        "architecture": type(target.model).__name__,
        "layers": target.num_layers,
        "kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "vocab_size": target.vocab_size,
        "dtype": str(target.dtype).removeprefix("torch."),
        "logits": last[:: max(1, len(last) // _LOGITS)][:_LOGITS].tolist(),
    }


def _layer(store: KVStore, layer: int) -> dict[str, Tensor]:
    """All committed keys and values of a store's only sequence in one layer: `[Hkv, T, D]`."""
    parts: dict[str, list[Tensor]] = {"k": [], "v": []}
    for level in store.levels:
        length = int(level.length[0])
        for name, buffers in (("k", level.k), ("v", level.v)):
            buffer = buffers[layer]
            if buffer is not None and length:
                parts[name].append(buffer[0, :, :length].cpu())
    return {name: torch.cat(pieces, dim=1).contiguous() for name, pieces in parts.items()}
