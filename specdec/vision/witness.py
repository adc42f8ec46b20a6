"""Witness: what a model for images hands to its text part, seen where it hands it over.

Every family merges images into text in a way of its own: by projectors, tiles, rotary positions in
time, height and width, features for later layers, masks. None of it is written down here. The
model's own `generate` prepares the call, its own `forward` runs up to the text part, and there we
look. What is handed over and is not understood is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from specdec.errors import InvalidArgument, SpecdecError, UnsupportedModel
from specdec.forward.model_settings import ModelSettings, of_text
from specdec.model.prompt_inputs import DEEPSTACK
from specdec.model.stock import bare_config
from specdec.model.text_part import decoder_of
from specdec.model.turns import turn_of
from specdec.vision.encoder_cache import EncoderCache

NAME = "specdec-witness"

# Of rows `[B, 1]`, queries and keys `[B, m]`, by their places: whether they see each other.
Sees = Callable[[Tensor, Tensor, Tensor], Tensor]

# What a text part may be handed: read, or of no consequence here.
_READ = {"inputs_embeds", "position_ids", DEEPSTACK}
_KNOWN = {
    "visual_pos_masks", "past_key_values", "attention_mask", "use_cache", "return_dict",
    "logits_to_keep",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Handed:
    """What the text part is given for `B` prompts of `n` tokens, padding included.

    embeddings: `[B, n, hidden]`; positions: `int64[B, n]`, `[D, B, n]` or None; deepstack: of all
    image tokens in order, `[m, hidden]` for each of the first layers; image_places: `bool[B, n]`,
    whose they are; sees: for each mask that the model makes, which pairs of tokens see each other.
    """

    embeddings: Tensor
    positions: Tensor | None
    deepstack: Sequence[Tensor]
    image_places: Tensor | None
    sees: Sequence[Sees]

    def every(self, step: int) -> Handed:
        """Of every so many-th row alone."""
        places, positions = self.image_places, self.positions
        kept = slice(None, None, step)
        if step == 1:
            return self
        if positions is not None:
            positions = positions[kept] if positions.dim() == 2 else positions[:, kept]
        features = self.deepstack
        if places is not None:
            rows = torch.arange(len(places), device=places.device)[:, None].expand_as(places)
            mine = (rows[places] % step) == 0
            features = [x[mine] for x in features]
        sees = [lambda r, q, k, s=s: s(r * step, q, k) for s in self.sees]
        return Handed(
            self.embeddings[kept], positions, features, None if places is None else places[kept],
            sees,
        )  # fmt: skip


def handed(model: PreTrainedModel, inputs: Mapping[str, Any], cache: EncoderCache) -> Handed:
    """What `model.generate(**inputs)` would hand to the text part for its prompts.

    cache: of what the tower has made before, and makes now.

    The model is as it was afterwards. Raises InvalidArgument with what the model itself has to say
    of inputs that do not fit, UnsupportedModel for what cannot be followed.
    """

    def loop(
        model: Any, input_ids: Tensor, logits_processor: Any = None, stopping_criteria: Any = None,
        generation_config: Any = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        _prefill(model, input_ids, kwargs)

    def call() -> None:
        generate: Any = model.generate
        with bare_config(model):
            generate(**inputs, max_new_tokens=1, custom_generate=loop)

    return _seen(model, call, cache)


def handed_in(model: PreTrainedModel, input_ids: Tensor, prepared: Mapping[str, Any]) -> Handed:
    """As `handed`, of what `model.generate` has prepared already for `input_ids[B, n]`."""
    return _seen(model, lambda: _prefill(model, input_ids, dict(prepared)), EncoderCache())


def _prefill(model: Any, input_ids: Tensor, kwargs: dict[str, Any]) -> NoReturn:
    """The first pass, as transformers runs it; it is left at the text part."""
    model(**model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs))
    raise UnsupportedModel(f"{type(model).__name__} does not call its text part")


class _Notes(local):
    """The masks that are being noted in this thread."""

    def __init__(self) -> None:
        self.masks: list[Sees] = []


_notes = _Notes()


class _Arrived(Exception):
    """The call has arrived at the text part."""

    def __init__(self, args: Any, kwargs: dict[str, Any]) -> None:
        self.args_given, self.kwargs = args, kwargs


@torch.inference_mode()
def _seen(model: PreTrainedModel, call: Callable[[], Any], cache: EncoderCache) -> Handed:
    kind = type(model).__name__

    def arrive(_: Any, args: Any, kwargs: dict[str, Any]) -> NoReturn:
        raise _Arrived(args, kwargs)

    with turn_of(model), _witnessed(model) as sees, cache.within(model):
        hook = decoder_of(model).register_forward_pre_hook(arrive, with_kwargs=True)
        try:
            call()
        except _Arrived as arrived:
            return _read(arrived, sees, kind)
        except (SpecdecError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of models, which say in many ways that inputs do not fit
            said = " ".join(str(error).split())[:300] or type(error).__name__
            raise InvalidArgument(
                f"{kind} cannot read these images with this text ({said}): give what its own "
                "processor returns for them"
            ) from error
        finally:
            hook.remove()
    raise AssertionError("unreachable")


def _read(arrived: _Arrived, sees: list[Sees], kind: str) -> Handed:
    kwargs = {name: value for name, value in arrived.kwargs.items() if value is not None}
    for name, value in kwargs.items():
        if name not in _READ and name not in _KNOWN and value is not False:
            raise UnsupportedModel(
                f"{kind} gives its text part {name}, which we do not know how to honour: this "
                "model's images are not supported"
            )
    masks = kwargs.get("attention_mask")
    parts = masks.values() if isinstance(masks, Mapping) else [masks]
    if any(mask is not None and mask.dim() != 2 for mask in parts):
        raise UnsupportedModel(f"{kind} makes a mask of its own, which we cannot look into")
    if any(x is not None for x in arrived.args_given) or "inputs_embeds" not in kwargs:
        raise UnsupportedModel(f"{kind} gives its text part no embeddings by name")
    return Handed(
        kwargs["inputs_embeds"],
        kwargs.get("position_ids"),
        kwargs.get(DEEPSTACK) or (),
        kwargs.get("visual_pos_masks"),
        sees,
    )


@contextmanager
def _witnessed(
    model: PreTrainedModel,
) -> Iterator[list[Sees]]:
    """Within this context the masks that the model makes for its text are noted, not made."""
    before = ModelSettings(model)
    base: Any = model.base_model
    state = getattr(base, "rope_deltas", None)
    AttentionInterface.register(NAME, _never)
    AttentionMaskInterface.register(NAME, _note)
    noted: list[Sees] = []
    outer = _notes.masks
    _notes.masks = noted
    try:
        model.set_attn_implementation(of_text(model.config, NAME))
        yield noted
    finally:
        _notes.masks = outer
        before.restore()
        if hasattr(base, "rope_deltas"):
            base.rope_deltas = state


def _note(batch_size: int, q_length: int, kv_length: int, **how: Any) -> None:
    """A mask of transformers' table: which pairs see each other is asked later."""
    mask = how["mask_function"]
    _notes.masks.append(lambda rows, q, kv: mask(rows, torch.zeros_like(rows), q, kv))


def _never(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("the text part does not run")
