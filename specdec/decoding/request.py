"""Request: one call of `generate`, understood and checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from transformers import PreTrainedModel

from specdec.cache.saved_text import SavedTexts
from specdec.decoding.keywords import Keywords
from specdec.decoding.methods import Methods
from specdec.decoding.prompt import read_prompts, split_keywords, whole_prompt
from specdec.decoding.prompt_check import check_goes_on, check_prompt
from specdec.decoding.prompt_images import with_images
from specdec.errors import InvalidArgument, PromptTooLong, unknown_name
from specdec.model.target import Target
from specdec.offload.saved_documents import SavedDocuments
from specdec.offload.saved_prompt import SavedPrompt
from specdec.registry import ACCEPTANCE
from specdec.sampling.params import SamplingParams
from specdec.sampling.processors import Processor
from specdec.sampling.prompt import Prompt
from specdec.vision.encoder_cache import EncoderCache


class Host(Protocol):
    """Where a request is to run: an Engine, or a model lent to us for one call."""

    @property
    def model(self) -> PreTrainedModel: ...

    @property
    def target(self) -> Target: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def processor(self) -> Any: ...

    @property
    def encoder_cache(self) -> EncoderCache: ...


@dataclass(frozen=True)
class Request:
    """What to generate and how; made by `parse` from the keywords of a call.

    prompts: token ids of each prompt; contents: what each holds besides them, if anything; empty if
    none does. methods: who drafts and what is read. options: those of methods that were given, by
    name.
    Prepared elsewhere, and then one entry per prompt: `processors` in place of those that `params`
    describe; `before`, ids that processors see in front of the prompt (its
    padding); such a batch is turned by its longest row, as transformers does it (`Rotation`).
    eos_token_ids, stop_token_ids: both end a text; only the former are what `min_new_tokens` keeps
        away.
    saved_prompt: what every prompt starts with, already read. saved_documents: what every prompt
    consists of but for the question; each was read alone.
    share_prefixes: whether what several rows begin with is read and kept once; None: unless inputs
    of products are rounded, since a text would then depend on how it was read.
    """

    prompts: list[list[int]]
    methods: Methods
    params: SamplingParams = field(default_factory=SamplingParams)
    options: Mapping[str, Any] = field(default_factory=dict)
    drafter: str | Callable[..., Any] = "auto"
    acceptance: str = "coupled"
    view: str = "full"
    streamer: Any = None
    tokenizer: Any = None
    eos_token_ids: tuple[int, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    processors: Sequence[Sequence[Processor]] | None = None
    before: Sequence[Sequence[int]] | None = None
    returns_list: bool = False
    saved_prompt: SavedTexts | None = None
    saved_documents: SavedDocuments | None = None
    contents: Sequence[Prompt | None] = ()
    share_prefixes: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.share_prefixes, bool | None):
            raise InvalidArgument(f"share_prefixes={self.share_prefixes!r}: give True or False")
        if self.acceptance not in ACCEPTANCE:
            raise unknown_name("acceptance rule", self.acceptance, ACCEPTANCE)
        rows = len(self.prompts) * self.params.num_return_sequences
        if self.streamer is not None and rows != 1:
            raise InvalidArgument(f"streamer takes one sequence, and this call makes {rows}")
        if self.params.stop_list and self.tokenizer is None:
            raise InvalidArgument("stop_strings need a tokenizer, and this engine has none")

    @classmethod
    def parse(cls, host: Host, prompt: Any, kwargs: Mapping[str, Any]) -> Request:
        """The request for `engine.generate(prompt, **kwargs)`."""
        of_prompt, others = split_keywords(kwargs)
        given = Keywords(others)
        prompt = with_images(whole_prompt(prompt, of_prompt), host)
        params, own, drafting = given.params, given.own, given.drafting
        has_documents = own.get("saved_documents") is not None
        methods = Methods.of(own["drafter"], own["view"], drafting, has_documents)
        prompts, returns_list = read_prompts(prompt, host.tokenizer, host.target.vocab_size)
        for i, one in enumerate(prompts):
            check_prompt(one, host.target, f"prompt {i}")
            check_goes_on(one, f"prompt {i}")
        if has_documents:
            documents = _documents(own, host)
            prompts = [documents.before(one) for one in prompts]
            own["saved_prompt"] = documents.parts[0]  # whose place is the one it was read at
        _check_room(prompts, params, host.target.max_positions)
        if own.get("saved_prompt") is not None:
            own["saved_prompt"] = _saved(own["saved_prompt"], host, prompts)
        return cls(
            prompts=[one.ids for one in prompts],
            contents=tuple(None if one.is_plain else one for one in prompts),
            methods=methods.resolved(host.target, host.tokenizer, own.get("saved_documents")),
            params=params,
            options=drafting,
            tokenizer=host.tokenizer,
            eos_token_ids=_eos(params, host),
            stop_token_ids=_given_ids("stop_token_ids", params.stop_token_ids, host),
            returns_list=returns_list or params.num_return_sequences > 1,
            **own,
        )


def _check_room(prompts: Sequence[Prompt], params: SamplingParams, max_positions: int) -> None:
    for i, prompt in enumerate(prompts):
        ids = prompt.ids
        if params.most_new_tokens(len(ids)) < 1:
            raise PromptTooLong(
                f"prompt {i} has {len(ids)} tokens, and max_length={params.max_length} counts them "
                "too: raise it, or give max_new_tokens"
            )
        if len(ids) + prompt.offset > max_positions:
            images = sum(span.length for span in prompt.spans)
            which = f", {images} of them of images" if images else ""
            fewer = ", give fewer or smaller images" if images else ""
            raise PromptTooLong(
                f"prompt {i} has {len(ids)} tokens{which}, and the model has {max_positions} "
                f"positions: shorten it{fewer}, so that at least one new token fits"
            )


def _saved(folder: Any, host: Host, prompts: Sequence[Prompt]) -> SavedPrompt:
    """The saved prompt of a folder, which this model has read and all prompts start with."""
    saved = folder if isinstance(folder, SavedPrompt) else SavedPrompt(folder)
    saved.check(host.target)
    for prompt in prompts:
        saved.check_starts(prompt.keys)
    return saved


def _documents(own: dict[str, Any], host: Host) -> SavedDocuments:
    """The documents of a call, which this model has read; they take their folders' place."""
    if own.get("saved_prompt") is not None:
        raise InvalidArgument(
            "saved_documents and saved_prompt exclude each other: give the start of the prompt as "
            "the first of the documents"
        )
    given = own["saved_documents"]
    bos = getattr(host.tokenizer, "bos_token_id", None)
    documents = given if isinstance(given, SavedDocuments) else SavedDocuments(given, bos)
    documents.check(host.target)
    own["saved_documents"] = documents
    return documents


def _eos(params: SamplingParams, host: Host) -> tuple[int, ...]:
    """End tokens: as given, else those of the model's generation config, else the tokenizer's.

    Of the latter two, ids that the model does not have end nothing.
    """
    if params.ignore_eos:
        return ()
    if params.eos_token_id is not None:
        return _given_ids("eos_token_id", params.eos_token_id, host)
    config = getattr(host.model, "generation_config", None)
    eos: Any = getattr(config, "eos_token_id", None)
    if eos is None:
        eos = getattr(host.tokenizer, "eos_token_id", None)
    ids = (eos,) if isinstance(eos, int) else tuple(int(token) for token in eos or ())
    return tuple(token for token in ids if 0 <= token < host.target.vocab_size)


def _given_ids(name: str, given: int | Sequence[int] | None, host: Host) -> tuple[int, ...]:
    """The caller's ids, one or several, that end a text; all of them tokens of the model."""
    ids = (given,) if isinstance(given, int) else tuple(given or ())
    last = host.target.vocab_size - 1
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token <= last:
            raise InvalidArgument(f"{name} holds {token!r}, which is no token id from 0 to {last}")
    return ids
