"""For users of transformers: `model.generate(..., custom_generate=specdec.hf.generate)`.

transformers prepares the logits processors, stopping criteria and generation config as always and
hands them to us; `drafter=` and the other keywords below travel along. The model is used as it is,
and its attention is its own again afterwards.
"""

from __future__ import annotations

import copy
import sys
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.utils import GenerateDecoderOnlyOutput

from specdec import attention, support
from specdec.drafting import DraftModels, make_drafter, runs_draft_model
from specdec.errors import InvalidArgument
from specdec.generation import GenerationStream
from specdec.options import DraftOptions
from specdec.params import SamplingParams
from specdec.processors import Processor
from specdec.request import Request
from specdec.target import Target
from specdec.vocabulary import check_same_ids

_UNSUPPORTED = {
    "num_beams": (None, 1), "penalty_alpha": (None, 0.0), "dola_layers": (None,),
    "guidance_scale": (None, 1, 1.0), "output_scores": (None, False),
    "output_logits": (None, False), "output_attentions": (None, False),
    "output_hidden_states": (None, False),
}  # fmt: skip


def generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    streamer: Any = None,
    *,
    drafter: Any = None,
    draft_model: Any = None,
    num_draft_tokens: int | None = None,
    draft_width: int | None = None,
    acceptance: str = "coupled",
    seed: int | None = None,
    **model_kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """The same text as `model.generate` alone, in fewer passes; called by transformers.

    Returns `int64[B, L]` as transformers does, or its output object for `return_dict_in_generate`.
    A batch must be padded on the left. Unsupported: beams, guidance, scores and hidden states as
    output, a filled cache, `inputs_embeds`; they raise InvalidArgument.
    """
    _check(generation_config, model_kwargs)
    streamer = streamer if streamer is not None else _callers_streamer()
    prompts, before = _unpadded(input_ids, model_kwargs.get("attention_mask"))
    eos = getattr(generation_config, "_eos_token_tensor", None)
    request = Request(
        prompts=prompts,
        params=SamplingParams(
            max_new_tokens=max(1, generation_config.max_length - input_ids.shape[1]),
            do_sample=bool(generation_config.do_sample),
            stopping_criteria=list(stopping_criteria),
            seed=seed,
        ),
        options=DraftOptions(
            num_draft_tokens=num_draft_tokens, draft_width=draft_width, draft_model=draft_model
        ),
        drafter=drafter or "auto",
        acceptance=acceptance,
        streamer=None if streamer is None else _WithoutPrompt(streamer),
        eos_token_ids=() if eos is None else tuple(eos.tolist()),
        processors=[[_of_row(p, i) for p in logits_processor] for i in range(len(prompts))],
        before=before,
    )
    with ExitStack() as stack:
        target = _borrow(model, stack)
        runs = draft_model is not None and runs_draft_model(request.drafter)
        draft = _borrow_draft(draft_model, target, stack) if runs else None
        drafter_ = make_drafter(target, request, draft)
        texts = [g.token_ids for g in GenerationStream(target, request, drafter_).run()]
    return _padded(input_ids, texts, generation_config)


def _check(config: GenerationConfig, model_kwargs: dict[str, Any]) -> None:
    for name, neutral in _UNSUPPORTED.items():
        if getattr(config, name, None) not in neutral:
            raise InvalidArgument(f"{name}={getattr(config, name)!r} is not supported by specdec")
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise InvalidArgument(
            "past_key_values holds tokens already: specdec keeps its own KV store"
        )
    if model_kwargs.get("inputs_embeds") is not None:
        raise InvalidArgument("inputs_embeds is not supported by specdec: give input_ids")


def _borrow(model: PreTrainedModel, stack: ExitStack) -> Target:
    """The model as a target until the stack is left; then its attention is its own again."""
    support.check(model)
    known = support.is_tested(model) or attention.is_driven(model)
    stock = None if known else support.stock_logits(model)
    stack.enter_context(attention.driven(model))
    target = Target(model, borrowed=True)
    stack.enter_context(target.rotary.kept())
    if stock is not None:
        target.compare(stock)
    return target


def _borrow_draft(model: Any, target: Target, stack: ExitStack) -> Target:
    if not isinstance(model, PreTrainedModel):
        return DraftModels(target, None).get(model)
    size = model.config.get_text_config().vocab_size
    check_same_ids(None, None, target.vocab_size, size, type(model).__name__)
    return _borrow(model, stack)


def _unpadded(input_ids: Tensor, mask: Tensor | None) -> tuple[list[list[int]], list[list[int]]]:
    """Each row's own tokens, and the padding in front of them."""
    prompts, before = [], []
    for i, ids in enumerate(input_ids.tolist()):
        keep = [1] * len(ids) if mask is None else mask[i].tolist()
        start = keep.index(1) if 1 in keep else len(ids)
        if 0 in keep[start:] or start == len(ids):
            raise InvalidArgument(
                f"row {i} of input_ids is empty or padded elsewhere than on the left: set "
                "tokenizer.padding_side = 'left'"
            )
        before.append(ids[:start])
        prompts.append(ids[start:])
    return prompts, before


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
    longest = max(map(len, texts))
    pad = config.pad_token_id
    if pad is None:  # only a batch needs one, and transformers then takes the end token
        eos = config.eos_token_id
        pad = eos[0] if isinstance(eos, list) else eos
    new = [[*text, *([pad or 0] * (longest - len(text)))] for text in texts]
    sequences = torch.cat([input_ids, torch.tensor(new, device=input_ids.device)], dim=-1)
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


def _callers_streamer() -> Any:
    """The `streamer=` of the `model.generate` call that we are in.

    transformers (up to 5.23 at least) hands a callable `custom_generate` neither this argument
    nor a way to ask for it, but shows the streamer the prompt: left alone, a TextIteratorStreamer
    would wait for ever.
    """
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "generate" and "custom_generate" in frame.f_locals:
            return frame.f_locals.get("streamer")
        frame = frame.f_back  # type: ignore[assignment]
    return None
