"""For users of transformers: `model.generate(..., custom_generate=specdec.hf.generate)`.

transformers prepares the logits processors, stopping criteria and generation config as always and
hands them to us; the keywords of `Engine.generate` that concern drafting travel along. The model is
used as it is, and its attention is its own again afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.utils import GenerateDecoderOnlyOutput

from specdec.adapter import lockstep, model_inputs
from specdec.adapter.call import AdapterSignature, call_of, is_sharded
from specdec.decoding import options
from specdec.decoding.drafting import DraftModels, make_drafter, runs_draft_model
from specdec.decoding.request import Request
from specdec.decoding.stream import GenerationStream
from specdec.decoding.streamers import ended_on_error
from specdec.errors import InvalidArgument
from specdec.forward import attention
from specdec.loading.loader import tokenizer_at_hand
from specdec.model import support
from specdec.model.target import Target
from specdec.sampling import generation_fields, params
from specdec.sampling.foreign_names import CALL, refuse
from specdec.sampling.processors import Processor
from specdec.sampling.vocabulary import check_same_ids

# Our own keywords of a call: everything that concerns drafting, under every spelling.
OURS = {
    "drafter", "acceptance", "view", "seed", "saved_prompt", "tokenizer", "assistant_tokenizer",
    *options.NAMES, *options.SYNONYMS,
}  # fmt: skip

# Fields of a GenerationConfig that reach us as processors and criteria, or that we read ourselves.
_READ = params.NAMES | {
    "forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty",
    "begin_suppress_tokens", "encoder_repetition_penalty", "encoder_no_repeat_ngram_size",
    "remove_invalid_values", "top_h", "watermarking_config", "return_dict_in_generate",
}  # fmt: skip

_OF_ASSISTANT = ("num_assistant_tokens", "assistant_confidence_threshold")

# Draft models that were given by name, loaded once for each model that they draft for.
_drafts: WeakKeyDictionary[PreTrainedModel, DraftModels] = WeakKeyDictionary()


def generate(
    model: PreTrainedModel,
    input_ids: Tensor | None = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: GenerationConfig | None = None,
    synced_gpus: bool | None = None,
    streamer: Any = None,
    **given: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """The same text as `model.generate` alone, in fewer passes; called by transformers.

    drafter, acceptance, view, saved_prompt and the fields of DraftOptions: as for
    `Engine.generate`; so are their other names, and transformers' settings of assisted decoding.
    seed: of the draws; None takes one from PyTorch's generator.

    Returns `int64[B, L]` as transformers does, or its output object with `sequences` alone for
    `return_dict_in_generate`. A batch must be padded on the left. What is not understood (beams,
    guidance, scores as output, images, positions, a cache ...) raises InvalidArgument with its
    name, and so does a length that the model has no positions for. The model and the caller's
    objects are left as they were, whatever happens.
    """
    call = call_of(model)
    if call is None or generation_config is None:  # not called by transformers: let it prepare
        arguments = {
            "inputs": input_ids, "logits_processor": logits_processor, "synced_gpus": synced_gpus,
            "stopping_criteria": stopping_criteria, "generation_config": generation_config,
            "streamer": streamer, **given,
        }  # fmt: skip
        prepared: Any = model.generate
        arguments = {name: value for name, value in arguments.items() if value is not None}
        result: Tensor = prepared(**arguments, custom_generate=generate)
        return result
    assert input_ids is not None
    streamer = streamer if streamer is not None else call.kept.get("streamer")
    with ExitStack() as stack:
        with ended_on_error(streamer):
            support.check(model)
            ours = {name: given.pop(name) for name in OURS & given.keys()}
            generation_fields.check(generation_config, _READ)
            _check_call({"synced_gpus": synced_gpus or is_sharded(model), **call.kept})
            others = {n: v for n, v in call.keywords.items() if not hasattr(generation_config, n)}
            inputs = model_inputs.read(input_ids, {**others, **given})
            tokenizers = ours.pop("tokenizer", None), ours.pop("assistant_tokenizer", None)
            assistant = call.kept.get("assistant_model")
            if assistant is not None:
                ours["assistant_model"] = assistant
            drafts = assistant or ours.get("draft_model")
            keywords = {
                **ours, **_settings(generation_config, input_ids, stopping_criteria, drafts),
                "streamer": None if streamer is None else _WithoutPrompt(streamer),
            }  # fmt: skip
            host = _Host(model, _borrow(model, stack), tokenizers[0])
            rows = range(len(input_ids))
            request = replace(
                Request.parse(host, inputs.prompt, keywords),
                processors=[[_of_row(p, i) for p in logits_processor] for i in rows],
                before=inputs.before,
                tokenizer=None,  # nobody asks for the text
            )
            _check_length(request, host.target)
            draft = _borrow_draft(request, host, tokenizers[1], stack)
            if len(input_ids) > 1 and not lockstep.is_by_row(logits_processor, stopping_criteria):
                sequences = lockstep.generate(
                    host.target, replace(request, processors=[[] for _ in rows]), input_ids,
                    list(logits_processor), list(stopping_criteria), _pad_token(generation_config),
                )  # fmt: skip
                return _output(sequences, generation_config)
            drafter = make_drafter(host.target, request, draft)
            stream = GenerationStream(host.target, request, drafter)
        texts = [g.token_ids for g in stream.run()]
    return _padded(input_ids, texts, generation_config)


_signature = AdapterSignature.of(generate, OURS)
generate.__signature__ = _signature  # type: ignore[attr-defined]


class _Host(NamedTuple):
    """A model lent to us for one call."""

    model: PreTrainedModel
    target: Target
    tokenizer: Any


def _settings(
    config: GenerationConfig, input_ids: Tensor, criteria: Any, assistant: Any
) -> dict[str, Any]:
    """What transformers has prepared, as keywords of a request; of a loaded assistant it reads the
    settings of assisted decoding."""
    eos = getattr(config, "_eos_token_tensor", None)
    drafting = {}
    if isinstance(assistant, PreTrainedModel) and assistant.generation_config is not None:
        its = generation_fields.drafting(assistant.generation_config)
        drafting = {name: its[name] for name in _OF_ASSISTANT if name in its}
    drafting.update(generation_fields.drafting(config))
    return {
        "max_new_tokens": config.max_length - input_ids.shape[1],
        "do_sample": bool(config.do_sample),
        "stopping_criteria": list(criteria),
        "eos_token_id": [] if eos is None else eos.tolist(),
        "generation_config": GenerationConfig(**drafting),
    }


def _check_call(kept: Mapping[str, Any]) -> None:
    for name in ("synced_gpus", "negative_prompt_ids", "negative_prompt_attention_mask"):
        refuse(CALL, name, kept.get(name))


def _check_length(request: Request, target: Target) -> None:
    """Raise for a text that the model has no positions for: transformers would go on past them."""
    for i, ids in enumerate(request.prompts):
        new = request.params.most_new_tokens(len(ids))
        room = target.longest_text - len(ids)
        if new > room:
            raise InvalidArgument(
                f"row {i} of input_ids has {len(ids)} tokens, and the {target.max_positions} "
                f"positions of the model leave room for {room} new ones, not for {new}: give "
                f"max_new_tokens={room} (transformers would go on past the model's positions)"
            )


def _borrow(model: PreTrainedModel, stack: ExitStack) -> Target:
    """The model as a target until the stack is left; then its attention is its own again."""
    support.check(model)
    known = support.is_tested(model) or attention.is_driven(model)
    stock = None if known else support.stock_logits(model)
    stack.enter_context(attention.driven(model))
    target = Target(model, borrowed=True)
    if stock is not None:
        target.compare(stock)
    return target


def _borrow_draft(request: Request, host: _Host, tokenizer: Any, stack: ExitStack) -> Target | None:
    """The draft model of a request, if its drafter runs one: a loaded model is borrowed, too.

    tokenizer: the draft model's own, if it was given.
    """
    model = request.options.draft_model
    if model is None or not runs_draft_model(request.drafter):
        return None
    if not isinstance(model, PreTrainedModel):
        if host.model not in _drafts:
            _drafts[host.model] = DraftModels(tokenizer_at_hand(host.model))
        return _drafts[host.model].get(model, host.target, host.tokenizer)
    size = model.config.get_text_config().vocab_size
    check_same_ids(host.tokenizer, tokenizer, host.target.vocab_size, size, type(model).__name__)
    return _borrow(model, stack)


def _of_row(processor: Any, row: int) -> Processor:
    """A prepared processor as it acts on one row of the batch; rows are shaped one by one."""
    ignored = getattr(processor, "prompt_ignore_length", None)
    if isinstance(ignored, Tensor):
        processor = copy.copy(processor)
        processor.prompt_ignore_length = ignored[row : row + 1]
    allowed = getattr(processor, "_prefix_allowed_tokens_fn", None)
    if allowed is not None:
        processor = copy.copy(processor)
        processor._prefix_allowed_tokens_fn = lambda _, ids: allowed(row, ids)
    one: Processor = processor
    return one


def _padded(
    input_ids: Tensor, texts: list[list[int]], config: GenerationConfig
) -> Tensor | GenerateDecoderOnlyOutput:
    """Prompts and texts side by side, the shorter ones padded behind their end."""
    longest = max(map(len, texts))
    pad = _pad_token(config)
    new = [[*text, *([pad] * (longest - len(text)))] for text in texts]
    sequences = torch.cat([input_ids, torch.tensor(new, device=input_ids.device)], dim=-1)
    return _output(sequences, config)


def _pad_token(config: GenerationConfig) -> int:
    token = getattr(config, "_pad_token_tensor", None)  # without one, transformers takes an end
    return 0 if token is None else int(token)


def _output(sequences: Tensor, config: GenerationConfig) -> Tensor | GenerateDecoderOnlyOutput:
    if config.return_dict_in_generate:
        return GenerateDecoderOnlyOutput(sequences=sequences)  # type: ignore[arg-type]
    return sequences


class _WithoutPrompt:
    """A streamer that has the prompt already: transformers shows it before we are called."""

    def __init__(self, streamer: Any) -> None:
        self.streamer, self.seen = streamer, False

    def put(self, value: Tensor) -> None:
        if not self.seen:
            self.seen = True
            return
        for token in value.reshape(-1):  # one by one, as transformers' own loop does it
            self.streamer.put(token.reshape(1))

    def end(self) -> None:
        self.streamer.end()
