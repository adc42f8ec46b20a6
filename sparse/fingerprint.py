"""fingerprint: a name for a model's weights, by which what was measured of it is found again."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from torch.nn import functional

from specdec.errors import InvalidArgument
from specdec.model.target import Target


def fingerprint(target: Target) -> str:
    """A name for a model's weights, the same in any dtype: of its shape, norms and embeddings.

    Linear weights are left out: they may be packed, and channels serve fine-tunes of a model well.
    """
    config = target.model.config.get_text_config()
    digest = hashlib.sha256()
    for name in ("model_type", "num_hidden_layers", "hidden_size", "num_key_value_heads"):
        digest.update(f"{name}={getattr(config, name, None)};".encode())
    for parameter in target.model.parameters():
        if parameter.dim() == 1:
            digest.update(_bytes(parameter.detach()))
    embeddings = target.model.get_input_embeddings()
    if embeddings is not None:
        weight = embeddings.weight
        assert isinstance(weight, Tensor)
        first = torch.arange(min(64, len(weight)), device=weight.device)
        digest.update(_bytes(functional.embedding(first, weight.detach())))
    return digest.hexdigest()[:32]


def check_model(what: str, known: object, target: Target, how: str) -> None:
    """Raise InvalidArgument where `what` was made for another model than the target's.

    known: its fingerprint; how: to make one, in words.
    """
    if known != fingerprint(target):
        raise InvalidArgument(
            f"{what} was made for another model than this {type(target.model).__name__} of "
            f"{target.num_layers} layers; {how} for a model that --model names"
        )


def _bytes(x: Tensor) -> bytes:
    """Values rounded to bfloat16, so that a model read in another precision is the same one."""
    return x.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes()
