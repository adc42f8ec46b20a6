"""Request: one call of `generate`, understood and checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from specdec import options as draft_options
from specdec import params as sampling_params
from specdec.errors import InvalidArgument, PromptTooLong, unknown_name
from specdec.offload.saved_prompt import SavedPrompt
from specdec.options import DraftOptions
from specdec.params import SamplingParams
from specdec.processors import Processor
from specdec.prompt import parse_prompts
from specdec.registry import ACCEPTANCE, CHANNELS, DRAFTERS, VIEWS, drafter_names

if TYPE_CHECKING:
    from specdec.engine import Engine

_OWN = (
    "drafter", "acceptance", "view", "streamer", "generation_config", "sampling_params",
    "saved_prompt",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What to generate and how; made by `parse` from the keywords of a call.

    prompts: token ids of each prompt.
    Prepared elsewhere, and then one entry per prompt: `processors` in place of those that `params`
    describe; `before`, ids that processors see in front of the prompt (its padding);
    `sample_indices`, the sample numbers that key the noise.
    saved_prompt: what every prompt starts with, already read.
    """

    prompts: list[list[int]]
    params: SamplingParams = field(default_factory=SamplingParams)
    options: DraftOptions = field(default_factory=DraftOptions)
    drafter: str | Callable[..., Any] = "auto"
    acceptance: str = "coupled"
    view: str = "full"
    streamer: Any = None
    tokenizer: Any = None
    eos_token_ids: tuple[int, ...] = ()
    processors: Sequence[Sequence[Processor]] | None = None
    before: Sequence[Sequence[int]] | None = None
    sample_indices: Sequence[int] | None = None
    returns_list: bool = False
    saved_prompt: SavedPrompt | None = None

    def __post_init__(self) -> None:
        if isinstance(self.drafter, str):
            self._check_drafter(self.drafter)
        if self.acceptance not in ACCEPTANCE:
            raise unknown_name("acceptance rule", self.acceptance, ACCEPTANCE)
        if self.view not in VIEWS:
            raise unknown_name("view", self.view, VIEWS)
        rows = len(self.prompts) * self.params.num_return_sequences
        if self.streamer is not None and rows != 1:
            raise InvalidArgument(f"streamer takes one sequence, and this call makes {rows}")
        if self.params.stop_list and self.tokenizer is None:
            raise InvalidArgument("stop_strings need a tokenizer, and this engine has none")

    def _check_drafter(self, drafter: str) -> None:
        """Known names, and a draft model exactly where one of them runs it."""
        entries = [DRAFTERS[name] for name in drafter_names(drafter)]
        takes_model = any(entry.takes_model for entry in entries)
        if any(entry.needs_model for entry in entries) and self.options.draft_model is None:
            raise InvalidArgument(
                f"drafter {drafter!r} needs draft_model=: a smaller causal LM with the same "
                "token ids, as a folder, hub id, .gguf file or loaded model"
            )
        if not takes_model and self.options.draft_model is not None:
            raise InvalidArgument(
                f"drafter {drafter!r} has no use for draft_model: leave it out, or name a drafter "
                "that has, such as 'ngram+model'"
            )

    @classmethod
    def parse(cls, engine: Engine, prompt: Any, kwargs: Mapping[str, Any]) -> Request:
        """The request for `engine.generate(prompt, **kwargs)`."""
        named, sampling, drafting = _sort_keywords(kwargs)
        params = named.pop("sampling_params", None)
        config = named.pop("generation_config", None)
        if params is not None and (sampling or config is not None):
            raise InvalidArgument(
                "sampling_params holds all sampling settings: do not give generation_config or "
                f"{', '.join(sorted(sampling)) or 'others'} beside it"
            )
        if config is not None:
            params = SamplingParams.from_generation_config(config, **sampling)
        elif params is None:
            params = SamplingParams(**sampling)
        elif not isinstance(params, SamplingParams):
            raise InvalidArgument(
                f"sampling_params is a {type(params).__name__}, not SamplingParams"
            )
        named.setdefault("drafter", "auto")
        _check_used(named["drafter"], named.get("view", "full"), drafting)
        prompts, returns_list = parse_prompts(prompt, engine.tokenizer, engine.target.vocab_size)
        _check_room(prompts, engine.target.max_positions)
        if named.get("saved_prompt") is not None:
            named["saved_prompt"] = _saved(named["saved_prompt"], engine, prompts)
        if drafting.get("channels") is not None:
            drafting["channels"] = CHANNELS.load()(
                engine.target, engine.tokenizer, drafting["channels"]
            )
        return cls(
            prompts=prompts,
            params=params,
            options=DraftOptions(**drafting),
            tokenizer=engine.tokenizer,
            eos_token_ids=_eos(params, engine),
            returns_list=returns_list or params.num_return_sequences > 1,
            **named,
        )


def _sort_keywords(
    kwargs: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Keywords as (our own, of SamplingParams, of DraftOptions), synonyms resolved."""
    own: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    drafting: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    if kwargs.get("prompt_lookup_num_tokens") is not None:
        own["drafter"] = kwargs.get("drafter", "ngram")
    for given, value in kwargs.items():
        name = sampling_params.SYNONYMS.get(given) or draft_options.SYNONYMS.get(given) or given
        if name in _OWN:
            table = own
        elif name in sampling_params.NAMES:
            table = sampling
        elif name in draft_options.NAMES:
            table = drafting
        else:
            synonyms = {**sampling_params.SYNONYMS, **draft_options.SYNONYMS}
            known = {*_OWN, *sampling_params.NAMES, *draft_options.NAMES, *synonyms}
            raise unknown_name("argument", given, known)
        if name in spelled:
            raise InvalidArgument(f"{spelled[name]} and {given} mean the same: give one of them")
        spelled[name] = given
        if value is not None or name in sampling_params.NAMES:
            table[name] = value
    for name in ("max_new_tokens", "num_return_sequences"):  # None means the default
        if sampling.get(name, 0) is None:
            del sampling[name]
    return own, sampling, drafting


def _check_used(drafter: Any, view: str, drafting: Mapping[str, Any]) -> None:
    """Raise for a draft option that neither the drafter nor the view has a use for."""
    if not isinstance(drafter, str):
        return  # a drafter of the caller's own: only it knows
    used = set(VIEWS[view].options) if view in VIEWS else set()
    for name in drafter_names(drafter):
        used |= DRAFTERS[name].options
    for name in drafting:
        if name != "draft_model" and name not in used:
            raise InvalidArgument(
                f"drafter {drafter!r} has no use for {name}: leave it out"
                + (f", or choose among {', '.join(sorted(used))}" if used else "")
            )


def _check_room(prompts: Sequence[Sequence[int]], max_positions: int) -> None:
    for i, ids in enumerate(prompts):
        if len(ids) >= max_positions:
            raise PromptTooLong(
                f"prompt {i} has {len(ids)} tokens, and the model has {max_positions} positions: "
                "shorten it, so that at least one new token fits"
            )


def _saved(folder: Any, engine: Engine, prompts: Sequence[Sequence[int]]) -> SavedPrompt:
    """The saved prompt of a folder, which this model has read and all prompts start with."""
    saved = folder if isinstance(folder, SavedPrompt) else SavedPrompt(folder)
    saved.check(engine.target)
    for ids in prompts:
        saved.common(ids)
    return saved


def _eos(params: SamplingParams, engine: Engine) -> tuple[int, ...]:
    """End tokens: as given, else those of the model's generation config, else the tokenizer's."""
    eos = params.eos_token_id
    if eos is None:
        config = getattr(engine.model, "generation_config", None)
        eos = getattr(config, "eos_token_id", None)
    if eos is None:
        eos = getattr(engine.tokenizer, "eos_token_id", None)
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(int(token) for token in eos)
