"""SavedPrompt: the keys and values of a prompt in a folder, so that a book is read once."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from specdec.errors import InvalidArgument, WeightsError
from specdec.forward_pass import ForwardPass
from specdec.store import KVStore
from specdec.support import probe
from specdec.target import PREFILL_CHUNK, Target
from specdec.view import FullView

FORMAT = 1
SEAM = 16  # last tokens that may differ: text that is cut elsewhere is also tokenized otherwise
_TOLERANCE = 2e-3  # of the largest logit; other machines round otherwise
_LOGITS = 64


class SavedPrompt:
    """A folder with prompt.json and one safetensors file a layer; made by `save`.

    tokens: what has been read. Raises InvalidArgument for a folder that holds no saved prompt, and
    from `check` for one of another model.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            document = json.loads((self.folder / "prompt.json").read_text("utf-8"))
            known = document["format"] == FORMAT
            self.tokens: list[int] = [int(token) for token in document["tokens"]]
            self.about: dict[str, Any] = document["model"]
        except FileNotFoundError:
            raise InvalidArgument(
                f"saved_prompt={str(folder)!r} holds no prompt.json: make one with "
                "Engine.save_prompt, or `specdec generate --save-prompt`"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{self.folder / 'prompt.json'} cannot be read: {error}") from error
        if not known:
            raise InvalidArgument(
                f"saved_prompt={str(folder)!r} is of format {document['format']}, and this release "
                f"reads {FORMAT}: save it again"
            )

    def check(self, target: Target) -> None:
        """Raise InvalidArgument, with the difference, unless this is the model that read it."""
        _check_whole(target)
        mine = describe(target)
        for name in ("architecture", "layers", "kv_heads", "head_dim", "vocab_size", "dtype"):
            if mine[name] != self.about.get(name):
                raise InvalidArgument(
                    f"saved_prompt={str(self.folder)!r} was read by another model: {name} is "
                    f"{self.about.get(name)!r} there and {mine[name]!r} here"
                )
        ours, theirs = torch.tensor(mine["logits"]), torch.tensor(self.about["logits"])
        gap = float((ours - theirs).abs().max())
        if not gap <= _TOLERANCE * max(1.0, float(theirs.abs().max())):
            raise InvalidArgument(
                f"saved_prompt={str(self.folder)!r} was read by other weights of this "
                f"architecture: logits differ by {gap:.3g}"
            )

    def common(self, tokens: Sequence[int]) -> int:
        """How many of the saved tokens `tokens` starts with.

        Raises InvalidArgument unless these are all of them, but for the last SEAM.
        """
        count = 0
        for mine, other in zip(self.tokens, tokens, strict=False):
            if mine != other:
                break
            count += 1
        if count < len(self.tokens) - SEAM:
            raise InvalidArgument(
                f"the prompt does not start with saved_prompt={str(self.folder)!r}: token {count} "
                f"of {len(self.tokens)} differs. Start the prompt with the same text, or leave "
                "saved_prompt out"
            )
        return count

    def load(self, target: Target, store: KVStore, sequence: int, count: int) -> None:
        """Commit the first `count` tokens' keys and values to an empty row of a store."""
        files = [self._open(layer) for layer in range(target.num_layers)]
        for start in range(0, count, PREFILL_CHUNK):
            end = min(start + PREFILL_CHUNK, count)
            for layer, file in enumerate(files):
                k, v = (self._part(file, name, start, end, target.device) for name in ("k", "v"))
                store.stage(layer, [sequence], k, v, 0)
            store.commit(sequence, range(end - start))

    def _open(self, layer: int) -> Any:
        path = self.folder / _name(layer)
        try:
            return safe_open(str(path), framework="pt")
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path} cannot be read: {error}") from error

    @staticmethod
    def _part(file: Any, name: str, start: int, end: int, device: torch.device) -> Tensor:
        part: Tensor = file.get_slice(name)[:, start:end]
        return part[None].to(device)


def save(target: Target, tokens: Sequence[int], folder: str | Path) -> SavedPrompt:
    """Read `tokens` and write their keys and values to `folder`, which is replaced as a whole.

    Raises InvalidArgument for a folder that holds something else, which is left as it is.
    """
    _check_whole(target)
    folder = Path(folder)
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not (folder / "prompt.json").is_file():
        raise InvalidArgument(
            f"save_prompt: {folder} exists and holds no saved prompt; give a new folder"
        )
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise InvalidArgument(
            f"save_prompt: {folder} cannot be written ({error.strerror}): give another folder"
        ) from error
    try:
        store = target.new_store(1, len(tokens) + PREFILL_CHUNK)
        target.prefill(store, FullView(), 0, tokens)
        for layer in range(target.num_layers):
            save_file(_layer(store, layer), unfinished / _name(layer))
        document = {"format": FORMAT, "model": describe(target), "tokens": list(tokens)}
        (unfinished / "prompt.json").write_text(json.dumps(document), "utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
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


def _name(layer: int) -> str:
    return f"layer-{layer:05d}.safetensors"
