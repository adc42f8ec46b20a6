"""EncoderCache: what a vision tower made of images, so that it sees none of them twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.vision.digests import tower_digest
from specdec.vision.inputs import PIXELS
from specdec.vision.units import Unit, units_of

LIMIT = 256 << 20  # bytes
_METHODS = dict(zip(("get_image_features", "get_video_features"), PIXELS, strict=True))
_BY_UNIT, _BY_LAYER = "pooler_output", "deepstack_features"  # of what they return


class EncoderCache:
    """Features of images and videos, by their pixels, the tower's weights and its settings.

    A tower is given one image, tile or video at a time: what it makes of it then depends on no
    other, and takes the memory of one. What was used last is kept, on the host, up to `limit`
    bytes. A model that cannot be asked so is asked as its own `forward` does it.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.nbytes = limit, 0
        self._made: OrderedDict[bytes, Any] = OrderedDict()
        self._runs = False

    @contextmanager
    def within(self, model: PreTrainedModel) -> Iterator[None]:
        """Within this context the model's `forward` asks here before its tower."""
        base: Any = model.base_model
        settings = model.config.to_json_string(use_diff=False).encode()
        state = tower_digest(model) + blake2b(settings, digest_size=16).digest()
        with ExitStack() as stack:
            for name, pixels in _METHODS.items():
                method = getattr(base, name, None)
                if method is not None and name not in vars(base):
                    setattr(base, name, self._asked_before(method, pixels, state))
                    stack.callback(delattr, base, name)
            yield

    def _asked_before(
        self, method: Callable[..., Any], pixels: str, state: bytes
    ) -> Callable[..., Any]:
        how = signature(method)

        def features(*args: Any, **kwargs: Any) -> Any:
            if not self._runs:  # one of them may call the other
                named = how.bind(*args, **kwargs).arguments
                named |= named.pop("kwargs", {})
                whole = self._whole(method, pixels, named, state + pixels.encode())
                if whole is not None:
                    return whole
            return method(*args, **kwargs)

        asked: Any = features
        asked.__signature__ = how  # by which `generate` tells what to hand over
        return features

    def _whole(
        self, method: Callable[..., Any], pixels: str, named: Mapping[str, Any], state: bytes
    ) -> Any:
        """What `method` returns of `named`, put together; None where that cannot be done."""
        try:
            units = units_of(pixels, named)
        except (RuntimeError, TypeError, AttributeError):  # the model can tell what does not fit
            return None
        others = {k: x for k, x in named.items() if not units or k not in units[0].tensors}
        if not units or any(isinstance(x, Tensor) for x in others.values()):
            return None
        state += repr(sorted(others.items())).encode()
        try:
            found = [self._of(unit, method, others, state + unit.digest) for unit in units]
            return _joined(found, named[pixels].device)
        except (AttributeError, KeyError, TypeError, RuntimeError):
            return None

    def _of(
        self, unit: Unit, method: Callable[..., Any], others: Mapping[str, Any], key: bytes
    ) -> Any:
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        self._runs = True
        try:
            out = method(**unit.tensors, **others)
        finally:
            self._runs = False
        kept = {n: _copy(out[n]) for n in (_BY_UNIT, _BY_LAYER) if out.get(n) is not None}
        made = type(out)(**kept)
        self._made[key] = made
        self.nbytes += _bytes(made)
        while self.nbytes > self.limit:
            self.nbytes -= _bytes(self._made.popitem(last=False)[1])
        return made


def _joined(found: Sequence[Any], device: torch.device) -> Any:
    """Of all units, as the model returns it of several."""
    whole = {_BY_UNIT: _chain([x[_BY_UNIT] for x in found], device)}
    if found[0].get(_BY_LAYER) is not None:
        layers = zip(*(x[_BY_LAYER] for x in found), strict=True)
        whole[_BY_LAYER] = [_chain(x, device) for x in layers]
    return type(found[0])(**whole)


def _chain(parts: Sequence[Any], device: torch.device) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat([x.to(device) for x in parts])
    return [y.to(device) for x in parts for y in x]


def _copy(x: Any) -> Any:
    """Tensors, and lists of them, on the host."""
    return x.to("cpu", copy=True) if isinstance(x, Tensor) else [_copy(y) for y in x]


def _bytes(x: Any) -> int:
    if isinstance(x, Mapping):
        return sum(map(_bytes, x.values()))
    return x.nbytes if isinstance(x, Tensor) else sum(map(_bytes, x))
