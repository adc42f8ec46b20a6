"""The attention function through which unmodified transformers models read our store.

transformers passes unknown keyword arguments of `model(...)` down to the attention function of
every layer, so the pass travels as an argument: nothing is patched and nothing is global but the
name in transformers' own table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from specdec.errors import SpecdecError, UnsupportedModel
from specdec.forward.attend import attend
from specdec.forward.attention_call import AttentionCall
from specdec.forward.attention_op import attend_op
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.model_settings import ModelSettings, of_text
from specdec.forward.rotation import RotaryState

NAME = "specdec"

# What models hand to their attention besides what it computes by: of no consequence to it, or of
# none as long as it has this value.
_NEUTRAL = {
    "dropout": 0.0, "is_causal": True, "use_cache": False, "output_attentions": False,
    "output_hidden_states": False, "output_router_logits": False,
}  # fmt: skip
_ANY = {"position_ids", "position_embeddings", "cache_position", "return_dict", "logits_to_keep"}


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    specdec_pass: ForwardPass | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention seam: `query[B, H, N, D]` in, `[B, N, H, Dv]` out.

    Raises UnsupportedModel for a mask of the model's own or an argument that asks for more.
    """
    pass_ = required(specdec_pass)
    if attention_mask is not None:
        _refuse(module, "attention_mask", None)
    for name, given in others.items():
        if given is None or name in _ANY:
            continue
        if name not in _NEUTRAL or given != _NEUTRAL[name]:
            _refuse(module, name, given)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    query = query.contiguous()  # heads outermost, so that a group packs without a copy
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.compiler.is_compiling():
        handle = pass_.handle
        out = attend_op(query, key, value, s_aux, handle, layer, scale, softcap, sliding_window)
    else:
        pass_.heard.add(layer)
        call = AttentionCall(layer, query, key, value, scale, softcap, sliding_window, s_aux)
        out = attend(pass_, call)
    return out.transpose(1, 2).contiguous(), None


class NoPass(SpecdecError):
    """The model was called without the pass that our attention needs."""


def required(specdec_pass: ForwardPass | None) -> ForwardPass:
    """The pass; raises NoPass where somebody else called the model."""
    if specdec_pass is None:
        raise NoPass(
            "this model is driven by specdec and was called without a pass; use Engine.generate, "
            "or Engine.packing.restore() and model.set_attn_implementation('sdpa') to use it "
            "alone; a model that specdec.hf.generate is at work on is its caller's own again "
            "afterwards: meanwhile a criterion, a processor or another thread needs a copy of it"
        )
    return specdec_pass


def _refuse(module: nn.Module, name: str, value: Any) -> NoReturn:
    shown = f"={value}" if isinstance(value, (bool, int, float, str)) else ""
    raise UnsupportedModel(
        f"{type(module).__name__} calls attention with {name}{shown}, which we do not know how to "
        "honour" + ("; call model.eval() first" if name == "dropout" else "")
    )


def register() -> None:
    """Put our function into transformers' table under its name; doing so again changes nothing.

    Masks are ours: the prefix needs none, and the staged corner has the ancestor bitmask. A name
    without an entry in the table of mask functions has transformers make none, and ask nothing
    of the positions either, which on a GPU would wait for the device.
    """
    AttentionInterface.register(NAME, attention)


@contextmanager
def driven(model: PreTrainedModel) -> Iterator[None]:
    """Within this context the model's attention is ours; afterwards it is what it was.

    Several may do so at once, in one thread or many: who comes first switches the model, and who
    leaves last puts it back. Meanwhile nobody can call the model without a pass (`required`).
    """
    register()
    with _lock:
        loan = _loans.setdefault(model, _Loan(ExitStack()))
        if not loan.count:
            loan.undo.callback(ModelSettings(model).restore)
            loan.undo.enter_context(RotaryState(model).kept())
        loan.count += 1
    try:
        with _lock:
            model.set_attn_implementation(of_text(model.config, NAME))
            model.eval()
        with torch.inference_mode():
            yield
    finally:
        with _lock:
            loan.count -= 1
            if not loan.count:
                del _loans[model]
                loan.undo.close()


def is_driven(model: PreTrainedModel) -> bool:
    """Whether somebody is inside `driven` with this model."""
    return model in _loans


@dataclass
class _Loan:
    """What puts a lent model back as it was, and how many have it."""

    undo: ExitStack
    count: int = 0


_loans: WeakKeyDictionary[PreTrainedModel, _Loan] = WeakKeyDictionary()
_lock = RLock()
