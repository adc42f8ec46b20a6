"""Logits processors: the list that shapes a row's law, in transformers' own order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import transformers
from torch import Tensor

from specdec.errors import InvalidArgument
from specdec.sampling.forking import fork, is_plain_function
from specdec.sampling.params import SamplingParams

Processor: TypeAlias = Callable[..., Tensor]

# Processors of transformers that are functions of (ids, scores) alone, of each row by itself: calls
# may be left out or added, and rows asked one by one. All others may keep a state.
_FUNCTIONS = {
    "MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor", "TemperatureLogitsWarper",
    "RepetitionPenaltyLogitsProcessor", "TopPLogitsWarper", "TopKLogitsWarper", "TopHLogitsWarper",
    "MinPLogitsWarper", "TypicalLogitsWarper", "EpsilonLogitsWarper", "EtaLogitsWarper",
    "NoRepeatNGramLogitsProcessor", "SequenceBiasLogitsProcessor", "NoBadWordsLogitsProcessor",
    "ForcedBOSTokenLogitsProcessor", "ForcedEOSTokenLogitsProcessor",
    "InfNanRemoveLogitsProcessor", "LogitNormalization", "ExponentialDecayLengthPenalty",
    "SuppressTokensAtBeginLogitsProcessor", "SuppressTokensLogitsProcessor",
    "WatermarkLogitsProcessor",
}  # fmt: skip
_COLD = 1e-30  # a temperature below which quotients of logits leave float32
_HOT = 1e38  # above which it does itself; all that is allowed is equally likely long before


class OutputPenalty:
    """Frequency and presence penalties over the output, as OpenAI defines them."""

    stateless = True

    def __init__(self, num_prompt_tokens: int, frequency: float, presence: float) -> None:
        self.num_prompt_tokens, self.frequency, self.presence = (
            num_prompt_tokens,
            frequency,
            presence,
        )

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        output = input_ids[0, self.num_prompt_tokens :]
        counts = torch.bincount(output, minlength=scores.shape[-1])[: scores.shape[-1]].double()
        # in float64, since a penalty may be beyond float32: then it forbids
        penalty = self.frequency * counts + self.presence * (counts > 0).double()
        return scores - penalty.to(scores)


class ColdTemperature:
    """Division by a temperature so low that quotients would overflow: of distances to the best."""

    stateless = True

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        behind = scores.double() - scores.double().amax(-1, keepdim=True)
        return (behind / self.temperature).nan_to_num(0.0, neginf=-torch.inf).to(scores)


class LogitBias:
    """A number added to the logits of some tokens."""

    stateless = True

    def __init__(self, bias: Mapping[int, float]) -> None:
        self.ids = torch.tensor([int(token) for token in bias], dtype=torch.int64)
        self.values = torch.tensor([float(value) for value in bias.values()])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, self.ids.to(scores.device)] += self.values.to(scores)
        return scores


class AllowedTokens:
    """The caller's `prefix_allowed_tokens_fn` for one row of a batch, whose state is its own."""

    def __init__(self, function: Any, row: int) -> None:
        self.function, self.row = function, row

    def __call__(self, batch_id: int, ids: Tensor) -> Any:
        return self.function(self.row, ids)

    @property
    def stateless(self) -> bool:
        return is_stateless(self.function) or is_plain_function(self.function)


def build(
    params: SamplingParams,
    num_prompt_tokens: int,
    eos_token_ids: Sequence[int],
    vocab_size: int,
    device: torch.device,
    row: int = 0,
    stop_token_ids: Sequence[int] = (),
) -> list[Processor]:
    """The processors of one row: penalties and bans, the user's own, then the warpers."""
    p, t, chain = params, transformers, list[Processor]()
    eos = torch.tensor(list(eos_token_ids), dtype=torch.int64, device=device)
    if p.sequence_bias is not None:
        chain.append(t.SequenceBiasLogitsProcessor(p.sequence_bias))
    if p.logit_bias:
        _check_ids("logit_bias", p.logit_bias, vocab_size)
        chain.append(LogitBias(p.logit_bias))
    if p.repetition_penalty not in (None, 1.0):
        chain.append(t.RepetitionPenaltyLogitsProcessor(float(p.repetition_penalty or 1.0)))
    if p.frequency_penalty or p.presence_penalty:
        penalty = OutputPenalty(
            num_prompt_tokens, float(p.frequency_penalty or 0), float(p.presence_penalty or 0)
        )
        chain.append(penalty)
    if p.no_repeat_ngram_size:
        chain.append(t.NoRepeatNGramLogitsProcessor(p.no_repeat_ngram_size))
    if p.bad_words_ids is not None:
        _check_ids("bad_words_ids", [i for word in p.bad_words_ids for i in word], vocab_size)
        words = [list(word) for word in p.bad_words_ids]
        chain.append(t.NoBadWordsLogitsProcessor(words, eos if len(eos) else None))
    least = p.least_new_tokens(num_prompt_tokens)
    if least and len(eos):
        chain.append(
            t.MinNewTokensLengthLogitsProcessor(num_prompt_tokens, least, eos, device=str(device))
        )
    ends = torch.tensor([*eos_token_ids, *stop_token_ids], dtype=torch.int64, device=device)
    if p.min_tokens and len(ends):
        chain.append(
            t.MinNewTokensLengthLogitsProcessor(
                num_prompt_tokens, p.min_tokens, ends, device=str(device)
            )
        )
    if p.prefix_allowed_tokens_fn is not None:
        allowed = AllowedTokens(p.prefix_allowed_tokens_fn, row)
        chain.append(t.PrefixConstrainedLogitsProcessor(allowed, 1))
    if p.suppress_tokens is not None:
        _check_ids("suppress_tokens", p.suppress_tokens, vocab_size)
        chain.append(t.SuppressTokensLogitsProcessor(list(p.suppress_tokens), device=str(device)))
    chain.extend(p.logits_processor or ())
    if p.samples:
        chain.extend(_warpers(p, device))
    return chain


def _warpers(p: SamplingParams, device: torch.device) -> list[Processor]:
    t, chain = transformers, list[Processor]()
    if p.temperature is not None and p.temperature < _COLD:
        chain.append(ColdTemperature(float(p.temperature)))
    elif p.temperature not in (None, 1.0):
        chain.append(t.TemperatureLogitsWarper(min(float(p.temperature or 1.0), _HOT)))
    if p.top_k:
        chain.append(t.TopKLogitsWarper(p.top_k))
    if p.top_p is not None and p.top_p < 1.0:
        chain.append(t.TopPLogitsWarper(float(p.top_p)))
    if p.min_p:
        chain.append(t.MinPLogitsWarper(float(p.min_p)))
    if p.typical_p is not None and p.typical_p < 1.0:
        chain.append(t.TypicalLogitsWarper(float(p.typical_p)))
    if p.epsilon_cutoff:
        chain.append(t.EpsilonLogitsWarper(float(p.epsilon_cutoff)))
    if p.eta_cutoff:
        chain.append(t.EtaLogitsWarper(float(p.eta_cutoff), device=str(device)))
    return chain


def is_stateless(processor: Any) -> bool:
    """Whether a processor is a function of its arguments, so that calls may be left out or added.

    True for those of transformers that are known to be, and for those that say so with
    `stateless = True`. All others are asked once for every token of the text, in order.
    """
    if hasattr(processor, "stateless"):
        return bool(processor.stateless)
    kind = type(processor)
    if kind is transformers.PrefixConstrainedLogitsProcessor:
        return AllowedTokens(processor._prefix_allowed_tokens_fn, 0).stateless
    ours = kind.__module__ == "transformers.generation.logits_process"
    return ours and kind.__name__ in _FUNCTIONS


def own_copy(processor: Any) -> Any:
    """A processor for one more row or branch: itself where it keeps no state.

    Raises CannotFork for one that cannot be copied.
    """
    return processor if is_stateless(processor) or is_plain_function(processor) else fork(processor)


def _check_ids(name: str, ids: Any, vocab_size: int) -> None:
    for token in ids:
        if not 0 <= int(token) < vocab_size:
            raise InvalidArgument(f"{name} names token {token}, outside 0..{vocab_size - 1}")
