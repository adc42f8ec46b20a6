"""The roster: from names such as "auto" and "hf-pld" to those who take part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard

import torch
from transformers import PreTrainedModel

from specdec.bench.contestants import Contestant, HuggingFace, Ours, Stepper
from specdec.bench.workloads import ANY_PROMPT
from specdec.decoding.options import DraftOptions
from specdec.decoding.request import Request
from specdec.decoding.stats import PLAIN
from specdec.engine import Engine
from specdec.errors import InvalidArgument, unknown_name
from specdec.loading.loader import load
from specdec.registry import DRAFTERS, drafter_names, holders, read_option

# transformers at its best known settings for one sequence; "hf-assisted" gets the draft model.
HUGGING_FACE: dict[str, dict[str, Any]] = {
    "hf": {},
    "hf-pld": {"prompt_lookup_num_tokens": 10},
    "hf-assisted": {},
}
LLAMA_CPP = ["llama.cpp", "llama.cpp-pld", "llama.cpp-f32"]
OPENVINO = ["openvino", "openvino-pld"]
BASELINES = [*HUGGING_FACE, *LLAMA_CPP, *OPENVINO]
IK_LLAMA_CPP = "ik_llama.cpp"
# Those whose passes can be timed one by one.
STEPPERS = ["hf", "llama.cpp", "llama.cpp-f32", IK_LLAMA_CPP]


def ours(engine: Engine, drafters: Sequence[str], options: dict[str, Any]) -> list[Ours]:
    """Plain decoding and the drafters, each with those of the options that it has a use for.

    A drafter may bring options of its own, as in "ngram:num_draft_tokens=8". Raises InvalidArgument
    for an unknown drafter, a bad option, or one that no drafter has a use for.
    """
    DraftOptions(**{name: value for name, value in options.items() if name != "draft_model"})
    found = [Ours(engine, PLAIN, "none")]
    used: set[str] = set()
    for spec in drafters:
        drafter, own = named(spec)
        useful = set().union(*(DRAFTERS[name].options for name in drafter_names(drafter)))
        mine = {name: value for name, value in options.items() if name in useful}
        mine |= own
        used |= mine.keys()
        Request.parse(engine, ANY_PROMPT, {"drafter": drafter, **mine})
        found.append(Ours(engine, spec, drafter, mine))
    unused = sorted(options.keys() - used - {"draft_model"})
    if unused and drafters:
        raise InvalidArgument(f"none of {', '.join(drafters)} has a use for {unused[0]}")
    return found


def named(spec: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of "name:option=value:option=value"."""
    name, *own = spec.split(":")
    return name, dict(_setting(spec, text) for text in own)


class Place(Protocol):
    """Where and in which precision transformers' peers run: an engine says so."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...


def baselines(
    engine: Place, model: Any, names: Sequence[str], draft_model: Any, context: int
) -> list[Contestant]:
    """The peers, on weights of their own; `model` is what the engine was loaded from.

    context: the longest text of a run, in tokens. Raises InvalidArgument for an unknown one, or one
    that lacks a package or a draft model.
    """
    found: list[Contestant] = []
    stock: PreTrainedModel | None = None
    for name in names:
        if name in LLAMA_CPP:
            from specdec.bench import llama_cpp

            found.append(llama_cpp.contestant(name, model, context))
        elif name in OPENVINO:
            from specdec.bench import openvino

            found.append(openvino.contestant(name, model))
        elif name in HUGGING_FACE:
            stock = stock or _stock(engine, model)
            settings = dict(HUGGING_FACE[name])
            if name == "hf-assisted":
                if draft_model is None:
                    raise InvalidArgument("baseline 'hf-assisted' needs --draft-model")
                settings["assistant_model"] = _stock(engine, draft_model)
            found.append(HuggingFace(stock, name, settings))
        else:
            raise unknown_name("baseline", name, BASELINES)
    return found


def steppers(engine: Engine, model: Any, names: Sequence[str], context: int) -> list[Stepper]:
    """The peers whose passes are timed; see `baselines`."""
    found: list[Stepper] = []
    for name in names:
        if name not in STEPPERS:
            raise unknown_name("baseline", name, STEPPERS)
        if name == IK_LLAMA_CPP:
            from specdec.bench import ik_llama_cpp

            found.append(ik_llama_cpp.stepper(name, model, context))
        else:
            found += filter(_steps, baselines(engine, model, [name], None, context))
    return found


def _steps(peer: Contestant) -> TypeGuard[Stepper]:
    return hasattr(peer, "step")


def _setting(spec: str, text: str) -> tuple[str, Any]:
    """One "option=value" of a spec."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidArgument(f"{spec!r}: write options as name:option=value")
    return name, read_option(name, value) if name in holders() else value


def _stock(engine: Place, model: Any) -> PreTrainedModel:
    """Weights as transformers runs them."""
    if isinstance(model, PreTrainedModel):
        return model
    return load(model, dtype=engine.dtype, device=engine.device).model
