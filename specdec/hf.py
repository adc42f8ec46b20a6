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
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.utils import GenerateDecoderOnlyOutput

from specdec.adapter import lockstep, model_inputs
from specdec.adapter.call import AdapterSignature, call_of, is_sharded
from specdec.adapter.lent_models import Host, borrow, borrow_draft
from specdec.adapter.output import WithoutPrompt, output, pad_token, padded
from specdec.decoding import options
from specdec.decoding.drafting import make_drafter
from specdec.decoding.request import Request
from specdec.decoding.stream import GenerationStream
from specdec.decoding.streamers import EndedOnce, ended_on_error
from specdec.errors import InvalidArgument
from specdec.model import support
from specdec.model.target import Target
from specdec.sampling import generation_fields, params
from specdec.sampling.foreign_names import CALL, refuse
from specdec.sampling.processors import AllowedTokens, Processor
from specdec.threads import Threads
from specdec.vision.encoder_cache import EncoderCache

# Our own keywords of a call: everything that concerns drafting, under every spelling.
OURS = {
    "drafter", "acceptance", "view", "seed", "saved_prompt", "tokenizer", "assistant_tokenizer",
    "share_prefixes", "threads",
    *options.NAMES, *options.SYNONYMS,
}  # fmt: skip

# Fields of a GenerationConfig that reach us as processors and criteria, or that we read ourselves.
_READ = (params.NAMES & vars(GenerationConfig()).keys()) | {
    "forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty",
    "begin_suppress_tokens", "encoder_repetition_penalty", "encoder_no_repeat_ngram_size",
    "remove_invalid_values", "top_h", "watermarking_config", "return_dict_in_generate",
}  # fmt: skip

_OF_ASSISTANT = ("num_assistant_tokens", "assistant_confidence_threshold")


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

    drafter, acceptance, view, saved_prompt, share_prefixes and the options of drafters and views:
    as for `Engine.generate`; so are their other names, and transformers' settings of assisted
    decoding. seed: of the draws; None takes one from PyTorch's generator. threads: of the CPU, as
    for an Engine.

    Returns `int64[B, L]` as transformers does, or its output object with `sequences` alone for
    `return_dict_in_generate`. A batch must be padded on the left. What is not understood (beams,
    guidance, scores as output, positions, a cache ...) raises InvalidArgument with its
    name, and so does a length that the model has no positions for. The model and the caller's
    objects are left as they were, whatever happens.
    """
    call = call_of(model)
    if call is None or generation_config is None:  # not called by transformers: let it prepare
        shown = None if streamer is None else EndedOnce(streamer)
        arguments = {
            "inputs": input_ids, "logits_processor": logits_processor, "synced_gpus": synced_gpus,
            "stopping_criteria": stopping_criteria, "generation_config": generation_config,
            "streamer": shown, **given,
        }  # fmt: skip
        arguments = {name: value for name, value in arguments.items() if value is not None}
        prepared: Any = model.generate
        with ended_on_error(shown):  # transformers shows it the prompt, and ends it on no error
            result: Tensor = prepared(**arguments, custom_generate=generate)
        return result
    assert input_ids is not None
    config, rows = generation_config, len(input_ids)
    ours = {name: given.pop(name) for name in OURS & given.keys()}
    tokenizers = ours.pop("tokenizer", None), ours.pop("assistant_tokenizer", None)
    if "assistant_model" in call.kept:
        ours["assistant_model"] = call.kept["assistant_model"]
    streamer = streamer if streamer is not None else call.kept.get("streamer")
    ours["streamer"] = None if streamer is None else WithoutPrompt(streamer)
    with ExitStack() as stack:
        with ended_on_error(streamer):
            threads = Threads(ours.pop("threads", None))
            support.check(model)
            generation_fields.check(config, _READ)
            _check_call({"synced_gpus": synced_gpus or is_sharded(model), **call.kept})
            others = {n: v for n, v in call.keywords.items() if not hasattr(config, n)}
            copies = config.num_return_sequences or 1
            inputs = model_inputs.read(model, input_ids, others, given, copies)
            host = Host(model, borrow(model, stack), tokenizers[0], EncoderCache())
            host.target.threads, size = threads, host.target.vocab_size
            keywords = {**ours, **_settings(config, input_ids, stopping_criteria, ours, size)}
            request = replace(
                Request.parse(host, inputs.prompt, keywords),
                processors=[[_of_row(p, i) for p in logits_processor] for i in range(rows)],
                before=inputs.before,
                tokenizer=None,  # nobody asks for the text
            )
            _check_length(request, host.target)
            draft = borrow_draft(request, host, tokenizers[1], stack)
            if rows > 1 and not lockstep.is_by_row(logits_processor, stopping_criteria):
                with threads.used():
                    sequences = lockstep.generate(
                        host.target, replace(request, processors=[[]] * rows), input_ids,
                        list(logits_processor), list(stopping_criteria), pad_token(config),
                    )  # fmt: skip
                return output(sequences, config)
            drafter = make_drafter(host.target, request, draft)
            stream = GenerationStream(host.target, request, drafter)
        texts = [g.token_ids for g in stream.run()]
    return padded(input_ids, texts, config)


_signature = AdapterSignature.of(generate, OURS)
generate.__signature__ = _signature  # type: ignore[attr-defined]


def _settings(
    config: GenerationConfig,
    input_ids: Tensor,
    criteria: Any,
    ours: Mapping[str, Any],
    vocab_size: int,
) -> dict[str, Any]:
    """What transformers has prepared, as keywords of a request; of a loaded assistant it reads the
    settings of assisted decoding."""
    assistant = ours.get("assistant_model", ours.get("draft_model"))
    eos, ids = getattr(config, "_eos_token_tensor", None), range(vocab_size)
    drafting = {}
    if isinstance(assistant, PreTrainedModel) and assistant.generation_config is not None:
        its = generation_fields.drafting(assistant.generation_config)
        drafting = {name: its[name] for name in _OF_ASSISTANT if name in its}
    drafting.update(generation_fields.drafting(config))
    return {
        "max_new_tokens": config.max_length - input_ids.shape[1],
        "do_sample": bool(config.do_sample),
        "stopping_criteria": list(criteria),
        # transformers lets a config name ids that the model does not have: they end nothing
        "eos_token_id": [] if eos is None else [token for token in eos.tolist() if token in ids],
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


def _of_row(processor: Any, row: int) -> Processor:
    """A prepared processor as it acts on one row of the batch; rows are shaped one by one."""
    ignored = getattr(processor, "prompt_ignore_length", None)
    if isinstance(ignored, Tensor):
        processor = copy.copy(processor)
        processor.prompt_ignore_length = ignored[row : row + 1]
    allowed = getattr(processor, "_prefix_allowed_tokens_fn", None)
    if allowed is not None:
        processor = copy.copy(processor)
        processor._prefix_allowed_tokens_fn = AllowedTokens(allowed, row)
    one: Processor = processor
    return one
