"""check: plain against speculative decoding, token by token, with the place where they part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from specdec.decoding.prompt import parse_prompts
from specdec.decoding.request import Request
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.model.stock import stock_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from specdec.engine import Engine
    from specdec.progress import Progress


@dataclass(frozen=True)
class Divergence:
    """The first token at which a speculative text differs from the plain one.

    mode: "greedy" or "coupled"; or "transformers", where the plain text is that of
    transformers' own greedy `generate`. position: index into the new tokens. plain_id,
    drafted_id: the token of each text there; None where that text had ended. top2_gap: how far
    the target's best logit lies above its second best there: a gap near the rounding error of the
    dtype is a tie that passes of different width broke differently, a large one is our error.
    """

    prompt: int
    mode: str
    position: int
    plain_id: int | None
    drafted_id: int | None
    plain_text: str
    drafted_text: str
    top2_gap: float


@dataclass
class Report:
    """What a check compared and found; `ok` if nothing differs."""

    drafter: str
    dtype: str
    num_prompts: int = 0
    num_tokens: dict[str, int] = field(default_factory=dict)
    mean_acceptance_length: dict[str, float] = field(default_factory=dict)
    divergences: list[Divergence] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.divergences

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"ok": self.ok, **asdict(self)}


def check(
    engine: Engine,
    prompts: Sequence[Any],
    *,
    drafter: str | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.8,
    seed: int = 0,
    stock: PreTrainedModel | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Decode every prompt plainly and speculatively, greedily and by coupled sampling; compare.

    prompts: what `Engine.generate` takes as one prompt each. temperature, seed: of the coupled
    runs; prompt i samples with seed + i, and temperature 0 leaves them out. stock: the same model
    as transformers loads it; the greedy texts are then compared with its `generate`, too, which is
    told the engine's settings: what `generation_config.json` says beyond the ends counts for none.
    `options` go to the speculative runs (draft_model, num_draft_tokens ...). The report holds the
    first divergence of every run.
    """
    chosen: dict[str, Any] = {} if drafter is None else {"drafter": drafter}
    modes: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0.0}}
    if temperature:
        modes["coupled"] = {"temperature": temperature}
    report = Report(drafter or "", str(engine.dtype).removeprefix("torch."))
    steps = {mode: 0 for mode in modes}
    report.num_tokens = {mode: 0 for mode in modes}
    for i, prompt in enumerate(prompts):
        ids = parse_prompts(prompt, engine.tokenizer, engine.target.vocab_size)[0][0]
        for mode, sampling in modes.items():
            settings = {**sampling, "max_new_tokens": max_new_tokens}
            if mode == "coupled":
                settings["seed"] = seed + i
            plain = engine.generate(_masked(ids), drafter="none", **settings)
            drafted = engine.generate(_masked(ids), **chosen, **options, **settings)
            assert not isinstance(plain, list) and not isinstance(drafted, list)
            report.drafter = drafted.drafter
            report.num_tokens[mode] += len(drafted.token_ids)
            steps[mode] += drafted.stats.num_spec_steps
            references = {mode: plain.token_ids}
            if stock is not None and mode == "greedy":
                references["transformers"] = _stock_text(engine, stock, ids, max_new_tokens)
            for name, reference in references.items():
                found = _divergence(engine, ids, i, name, reference, drafted.token_ids)
                if found is not None:
                    report.divergences.append(found)
        report.num_prompts += 1
        if progress is not None:
            progress(i + 1, len(prompts))
    report.mean_acceptance_length = {
        mode: report.num_tokens[mode] / steps[mode] for mode in modes if steps[mode]
    }
    return report


def first_difference(plain: Sequence[int], drafted: Sequence[int]) -> int | None:
    """The first index at which two token lists differ, their ends included; None if they agree."""
    for i, (a, b) in enumerate(zip(plain, drafted, strict=False)):
        if a != b:
            return i
    return None if len(plain) == len(drafted) else min(len(plain), len(drafted))


def _masked(ids: list[int]) -> dict[str, list[int]]:
    """A prompt that has been read already, so that nothing in it is padding."""
    return {"input_ids": ids, "attention_mask": [1] * len(ids)}


def _divergence(
    engine: Engine, ids: list[int], prompt: int, mode: str, plain: list[int], drafted: list[int]
) -> Divergence | None:
    position = first_difference(plain, drafted)
    if position is None:
        return None
    tokens = [text[position : position + 1] for text in (plain, drafted)]
    texts = ["".join(map(engine.tokenizer.decode, t)) if engine.tokenizer else "" for t in tokens]
    gap = top2_gap(engine, [*ids, *plain[:position]])
    first, second = (t[0] if t else None for t in tokens)
    return Divergence(prompt, mode, position, first, second, texts[0], texts[1], gap)


def _stock_text(
    engine: Engine, model: PreTrainedModel, ids: list[int], max_new_tokens: int
) -> list[int]:
    """What transformers says under the engine's settings: greedy, with its ends and positions."""
    request = Request.parse(engine, _masked(ids), {"max_new_tokens": max_new_tokens})
    room = min(max_new_tokens, engine.target.longest_text - len(ids))
    return stock_text(model, ids, request.eos_token_ids, do_sample=False, max_new_tokens=room)


def top2_gap(engine: Engine, ids: list[int]) -> float:
    """How far the best logit after `ids` lies above the second, by one plain step of the target."""
    target, view = engine.target, FullView()
    store = target.new_store(1, len(ids))
    target.prefill(store, view, 0, ids[:-1], length=len(ids))
    positions = torch.tensor([[len(ids) - 1]], device=target.device)
    logits = target.forward([ids[-1:]], ForwardPass(store, view, [0], positions))
    best = logits[0, -1].double().topk(2).values
    return float(best[0] - best[1])
