"""The keywords of a call of `generate`, understood one by one and sorted by whom they concern."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from transformers import GenerationConfig

from specdec.decoding import options as draft_options
from specdec.decoding.custom_drafter import options_of, takes_options
from specdec.errors import InvalidArgument, unknown_name
from specdec.method import Option
from specdec.plain import plain
from specdec.registry import DRAFTERS, VIEWS, drafter_names, holders
from specdec.sampling import generation_fields
from specdec.sampling import params as sampling_params
from specdec.sampling.foreign_names import CALL, refuse
from specdec.sampling.params import SamplingParams

_OWN = (
    "drafter", "acceptance", "view", "streamer", "generation_config", "sampling_params",
    "saved_prompt", "saved_documents", "share_prefixes",
)  # fmt: skip


class Keywords:
    """The keywords of one call.

    own: what Request knows by itself, drafter and view always among it. params: the sampling
    settings. drafting: options of methods, checked, that drafter or view have a use for.

    Raises InvalidArgument for a name that means nothing, one that means something else (beams ...),
    two spellings of one thing, settings that nobody has a use for, and what SamplingParams refuses.
    """

    def __init__(self, kwargs: Mapping[str, Any]) -> None:
        self.own: dict[str, Any] = {"drafter": "auto", "view": "full"}
        self.drafting: dict[str, Any] = {}
        sampling: dict[str, Any] = {}
        if kwargs.get("prompt_lookup_num_tokens") is not None:
            self.own["drafter"] = "ngram"
        self._of_user = _options_of_user(kwargs.get("drafter"))
        self._spelled = spelled = dict[str, str]()
        for given, value in kwargs.items():
            name = sampling_params.SYNONYMS.get(given) or draft_options.SYNONYMS.get(given) or given
            if name in _OWN:
                table = self.own
            elif name in sampling_params.NAMES:
                table = sampling
            elif name in draft_options.NAMES or name in self._of_user:
                table = self.drafting
            else:
                _refuse(given, value)
                continue
            if value is None:  # not given; but of a sampling setting, off
                if name in sampling_params.NAMES:
                    table.setdefault(name, None)
                continue
            if name in spelled:
                raise InvalidArgument(
                    f"{spelled[name]} and {given} mean the same: give one of them"
                )
            spelled[name], table[name] = given, value
        for name in ("max_new_tokens", "num_return_sequences"):  # None means the default
            if sampling.get(name, 0) is None:
                del sampling[name]
        config = self.own.pop("generation_config", None)
        self.params = _params(self.own.pop("sampling_params", None), config, sampling)
        if config is not None:
            self._take_drafting(generation_fields.drafting(config), "drafter" in spelled)
        self._check_used()

    def _chosen(self) -> list[Mapping[str, Option]]:
        """The options of the view and of each drafter; those of a user's own are in `_of_user`."""
        drafter, view = self.own["drafter"], self.own["view"]
        names = drafter_names(drafter) if isinstance(drafter, str) else []
        chosen = [VIEWS[view]] if view in VIEWS else []
        return [entry.options for entry in (*chosen, *(DRAFTERS[name] for name in names))]

    def _used(self) -> set[str] | None:
        """Options that drafter or view have a use for; None: only the drafter knows."""
        drafter = self.own["drafter"]
        if not isinstance(drafter, str) and takes_options(drafter) and options_of(drafter) is None:
            return None
        return set(self._of_user).union(*self._chosen())

    def _take_drafting(self, fields: Mapping[str, Any], drafter_is_given: bool) -> None:
        """Take up a config's settings of assisted decoding, where they have a use and nothing else
        is said."""
        if "prompt_lookup_num_tokens" in fields and not drafter_is_given:
            self.own["drafter"] = "ngram"
        used = self._used()
        for name, ours in generation_fields.DRAFTING.items():
            if name in fields and (used is None or ours in used):
                self.drafting.setdefault(ours, fields[name])

    def _check_used(self) -> None:
        used, is_named = self._used(), isinstance(self.own["drafter"], str)
        for name, value in self.drafting.items():
            spelled = self._spelled.get(name, name)
            is_theirs = name == "draft_model" and is_named  # which Methods looks at
            if used is not None and name not in used and not is_theirs:
                raise self._unused(name, spelled, used)
            for options in self._chosen():
                if name in options:
                    options[name].kind.check(spelled, plain(value))

    def _unused(self, name: str, spelled: str, used: Collection[str]) -> InvalidArgument:
        drafter = self.own["drafter"]
        if not isinstance(drafter, str):
            return InvalidArgument(
                f"the drafter that was given is not told {name}=: leave it out, or give a "
                "function of (target, options) that makes the drafter"
            )
        others = ", ".join(f"{option}=" for option in sorted(used))
        hint = f", or choose among {others}" if others else ""
        having = ", ".join(repr(holder) for holder in holders()[name] if holder in DRAFTERS)
        return InvalidArgument(
            f"drafter {drafter!r} has no use for {spelled}=: leave it out{hint}; drafters that "
            f"have: {having}"
        )


def _options_of_user(drafter: Any) -> Collection[str]:
    """The names of the options that a drafter of the user's own says it has."""
    options = None if isinstance(drafter, str) else options_of(drafter)
    return () if options is None else options.options()


def _params(given: Any, config: Any, sampling: Mapping[str, Any]) -> SamplingParams:
    if given is not None and (sampling or config is not None):
        raise InvalidArgument(
            "sampling_params holds all sampling settings: do not give generation_config or "
            f"{', '.join(sorted(sampling)) or 'others'} beside it"
        )
    if config is not None and not isinstance(config, GenerationConfig):
        raise InvalidArgument(
            f"generation_config is a {type(config).__name__}: give a transformers.GenerationConfig"
        )
    if config is not None:
        return SamplingParams.from_generation_config(config, **sampling)
    if given is None:
        return SamplingParams(**sampling)
    if not isinstance(given, SamplingParams):
        kind = type(given)
        raise InvalidArgument(
            f"sampling_params is a {kind.__module__}.{kind.__qualname__}: give a "
            "specdec.SamplingParams, or the settings as keywords"
        )
    return given


def _refuse(name: str, value: Any) -> None:
    """Raise for a keyword that is not ours, unless it asks for nothing."""
    if name in CALL:
        refuse(CALL, name, value)
        return
    synonyms = {**sampling_params.SYNONYMS, **draft_options.SYNONYMS}
    known = {*_OWN, *sampling_params.NAMES, *draft_options.NAMES, *synonyms}
    raise unknown_name("argument", name, known)
