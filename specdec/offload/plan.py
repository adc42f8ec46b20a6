"""Plan: what would fit where, and how fast it would decode, before any work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM

from specdec.cache.kv_shape import KVShape
from specdec.errors import InvalidArgument, OutOfMemory, WeightsError
from specdec.forward.rotation import max_positions
from specdec.model.target import Target
from specdec.offload.known_models import KNOWN
from specdec.offload.kv_memory import KVMemory
from specdec.offload.limits import WORK_BYTES, weight_bytes
from specdec.offload.memory import show_bytes
from specdec.offload.rates import Rates, measure
from specdec.offload.split import Sizes, Split, resident_bytes, split

DRAFT_BUDGET = 4096  # tokens that a self-draft is taken to read
LONGEST_DRAFT = 64
DEFAULT_CONTEXT = 1 << 15
_BITS_4 = 4.5 / 8  # bytes of a weight in 4 bits, scales included


@dataclass(frozen=True)
class Plan:
    """Bytes and seconds of one configuration; times are the least that bandwidth allows.

    weights: bytes on the device and in host memory. plain_s: of a plain step, and of a pass over a
    draft, which reads the same; draft_s: of a draft token from the model itself on
    DRAFT_BUDGET tokens. draft_tokens: length of the draft that is best at `acceptance`, the assumed
    chance of each of its tokens. alternative: what would fit the device instead, or "".
    """

    model: str
    parameters: int
    context: int
    sequences: int
    token_bytes: int
    weights_device: int
    weights_host: int
    kv: Split
    rates: Rates
    plain_s: float
    draft_s: float
    acceptance: float
    draft_tokens: int
    expected: float
    alternative: str = ""

    @property
    def kv_bytes(self) -> int:
        return self.sequences * self.context * self.token_bytes

    @property
    def plain_tokens_per_s(self) -> float:
        return self.sequences / self.plain_s

    @property
    def tokens_per_s(self) -> float:
        """With the best draft length, or plainly if no draft pays."""
        return self.sequences * self.expected / (self.draft_tokens * self.draft_s + self.plain_s)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            **asdict(self),
            "kv_bytes": self.kv_bytes,
            "plain_tokens_per_s": self.plain_tokens_per_s,
            "tokens_per_s": self.tokens_per_s,
        }


def make_plan(
    model: str,
    *,
    context: int | None,
    device_memory: int,
    host_memory: int,
    disk: int,
    rates: Rates,
    sequences: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    acceptance: float = 0.9,
    on_cpu: bool = False,
) -> Plan:
    """Plan `sequences` texts of `context` tokens; None is 32k, or as many as the model has.

    Raises OutOfMemory with the smallest change that would do where nothing fits, WeightsError for a
    model whose configuration cannot be had, InvalidArgument for a text beyond its positions.
    """
    config = config_of(model)
    most = max_positions(config)
    if context is None:
        context = min(DEFAULT_CONTEXT, most)
    if context > most:
        raise InvalidArgument(
            f"context={context} is beyond the {most} positions that {model} has: give fewer"
        )
    shape, parameters = KVShape.of(config, dtype), count_parameters(config)
    work = 0 if on_cpu else WORK_BYTES
    weights = parameters * dtype.itemsize
    kept = min(sequences * context * shape.token_bytes,
               resident_bytes(shape, sequences, context, Sizes()))  # fmt: skip
    room = device_memory - work - kept
    if room <= 0:
        raise OutOfMemory(
            f"{show_bytes(device_memory)} of device memory leave no room for weights beside "
            f"{show_bytes(kept)} of keys and values and {show_bytes(work)} to work in"
        )
    near = min(weights, room)
    far = weights - near
    if far > host_memory:
        raise OutOfMemory(
            f"weights of {show_bytes(weights)} fit neither {show_bytes(near)} of device nor "
            f"{show_bytes(host_memory)} of host memory: {show_bytes(far - host_memory)} more of "
            f"either would do, or 4-bit weights of {show_bytes(parameters * _BITS_4)}"
        )
    kv = split(
        shape, sequences, context, Sizes(), device=device_memory - work - near,
        host=0 if on_cpu else host_memory - far, disk=disk,
    )  # fmt: skip
    alternative = ""
    if kv.tiers is not None or far:
        whole = sequences * context * shape.token_bytes
        alternative = _alternative(parameters, whole, device_memory, rates, sequences)
    return timed(model, parameters, shape, context, sequences, (near, far), kv, rates, acceptance,
                 alternative)  # fmt: skip


def plan_of(
    target: Target, name: str, memory: KVMemory, context: int, sequences: int,
    acceptance: float = 0.9,
) -> Plan:  # fmt: skip
    """The plan of a loaded model for so long a text, at rates that are measured here."""
    shape = target.kv_shape
    near = weight_bytes(target, target.device)
    far = 0
    if target.device.type != "cpu":
        far = weight_bytes(target, torch.device("cpu"))
    kv = memory.split(shape, sequences, context, target.device)
    rates = measure(memory.folder, target.device)
    parameters = count_parameters(target.model.config)
    return timed(name, parameters, shape, context, sequences, (near, far), kv, rates,
                 acceptance)  # fmt: skip


def timed(
    model: str,
    parameters: int,
    shape: KVShape,
    context: int,
    sequences: int,
    weights: tuple[int, int],
    kv: Split,
    rates: Rates,
    acceptance: float,
    alternative: str = "",
) -> Plan:
    """The plan with its times, from bytes on the device and elsewhere: `weights` and `kv`."""
    near, far = weights
    layer = sequences * context * shape.layer_bytes
    host, disk = kv.count("host") * layer, kv.count("disk") * layer
    resident = sequences * context * shape.token_bytes - host - disk
    step = (near + resident) / rates.device + (far + host) / rates.link + disk / rates.disk
    budget = min(context, DRAFT_BUDGET) * sequences * shape.token_bytes
    draft = (near + budget) / rates.device + far / rates.link
    length, expected = best_draft(step, draft, acceptance)
    return Plan(model, parameters, context, sequences, shape.token_bytes, near, far, kv, rates,
                step, draft, acceptance, length, expected, alternative)  # fmt: skip


def best_draft(step: float, draft: float, acceptance: float) -> tuple[int, float]:
    """(draft tokens, expected tokens of a round) of the most tokens per second; 0 drafts if none
    pays. A draft of n tokens brings 1 + a + ... + a^n."""
    best, found = 1 / step, (0, 1.0)
    expected = 1.0
    for length in range(1, LONGEST_DRAFT + 1):
        expected += acceptance**length
        speed = expected / (length * draft + step)
        if speed > best:
            best, found = speed, (length, expected)
    return found


def config_of(model: str) -> Any:
    """A model's configuration: of a folder, a known name, or from the hub."""
    if model in KNOWN:
        fields = dict(KNOWN[model])
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    from specdec.loading import loader

    if (config := loader.config_of(model)) is not None:
        return config
    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"the configuration of {model} cannot be had: give a folder with a config.json, a hub "
            f"id that can be reached, or one of {', '.join(KNOWN)}"
        ) from error


def count_parameters(config: Any) -> int:
    """Numbers in a causal LM's weights, those shared counted once; nothing is allocated."""
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    if getattr(config.get_text_config(), "tie_word_embeddings", False):
        model.tie_weights()
    return sum(parameter.numel() for parameter in {id(p): p for p in model.parameters()}.values())


def _alternative(parameters: int, kv: int, memory: int, rates: Rates, sequences: int) -> str:
    """The honest word: whether smaller weights and KV would need no offloading at all."""
    small = parameters * _BITS_4
    for kept, what in ((kv, "16-bit KV"), (kv / 2, "8-bit KV (another text)")):
        total = small + kept
        if total + WORK_BYTES <= memory:
            speed = sequences * rates.device / total
            return (
                f"4-bit weights with {what} take {show_bytes(total)}, would fit the device, and "
                f"decode plainly at up to {speed:.0f} tokens/s"
            )
    return (
        f"not even 4-bit weights with 8-bit KV ({show_bytes(small + kv / 2)}) would fit the device"
    )
