"""Stats: what a generation cost and what speculation brought, in the schema vLLM made common."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from specdec.forward.view_reads import ReadStats
from specdec.sampling.tree import TokenTree

PLAIN = "plain"  # who proposed, where nobody did


class StepFigures(NamedTuple):
    """One step: who proposed how many nodes, what was emitted, and the seconds it took.

    verify_s is the target's pass with its verdicts; whole_s the round, so the rest is ours.
    """

    proposer: str
    nodes: int
    emitted: int
    draft_s: float
    verify_s: float
    whole_s: float


@dataclass
class Stats:
    """Counts and seconds of one generation; rows of a batch share the time of their passes.

    A *step* is one target pass. `accepted` and `drafted` hold, per step, how many draft tokens were
    kept and how deep the draft reached (a tree counts by its longest path). `choices` counts steps
    by who had proposed, "plain" where nobody had: with `drafter="auto"`, what it chose, and
    `explanation` says why. `unasked` counts rounds that went without a drafter which could not take
    the text, under "drafter: reason". `steps` holds each step's own figures, for those who want to
    plot them.
    """

    accepted: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    num_draft_tokens: int = 0
    num_tokens: int = 0
    prefill_s: float = 0.0
    calibration_s: float = 0.0
    draft_s: float = 0.0
    verify_s: float = 0.0
    decode_s: float = 0.0
    inner: dict[str, Stats] = field(default_factory=dict)  # of drafters with a verification inside
    choices: Counter[str] = field(default_factory=Counter)
    explanation: list[str] = field(default_factory=list)
    steps: list[StepFigures] = field(default_factory=list)
    reads: dict[str, ReadStats] = field(default_factory=dict)  # of sparse views, by name
    unasked: Counter[str] = field(default_factory=Counter)

    def record(self, tree: TokenTree, accepted: int, emitted: int, *seconds: float) -> None:
        """Add one step: what was proposed, accepted draft tokens, emitted tokens.

        seconds: of drafting, of the pass and its verdicts, and of the whole round, if they count.
        """
        self.num_draft_tokens += tree.num_draft_tokens
        self.drafted.append(max(tree.depths()))
        self.accepted.append(accepted)
        self.num_tokens += emitted
        who = "+".join(sorted(set(tree.proposers[1:]))) or PLAIN
        self.choices[who] += 1
        draft, verify, whole = seconds or (0.0, 0.0, 0.0)
        self.draft_s += draft
        self.verify_s += verify
        self.decode_s += whole
        self.steps.append(StepFigures(who, tree.num_draft_tokens, emitted, draft, verify, whole))

    @property
    def num_spec_steps(self) -> int:
        """Target passes."""
        return len(self.accepted)

    @property
    def num_accepted_draft_tokens(self) -> int:
        return sum(self.accepted)

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens emitted per target pass, the recovered or bonus token included."""
        return self.num_tokens / self.num_spec_steps if self.num_spec_steps else 0.0

    @property
    def draft_acceptance_rate(self) -> float:
        """Accepted over proposed draft tokens; 0 if none was proposed."""
        if not self.num_draft_tokens:
            return 0.0
        return self.num_accepted_draft_tokens / self.num_draft_tokens

    @property
    def acceptance_histogram(self) -> list[int]:
        """Entry j: passes that accepted j draft tokens."""
        counts = Counter(self.accepted)
        return [counts[j] for j in range(max(counts, default=0) + 1)]

    @property
    def acceptance_rate_per_position(self) -> list[float]:
        """Entry i: of the passes whose draft reached depth i + 1, the share that accepted it."""
        rates = []
        for position in range(1, max(self.drafted, default=0) + 1):
            reached = sum(d >= position for d in self.drafted)
            rates.append(sum(a >= position for a in self.accepted) / reached)
        return rates

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of decoding, prefill not counted."""
        return self.num_tokens / self.decode_s if self.decode_s else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All figures under their public names, ready for JSON."""
        names = (
            "mean_acceptance_length", "draft_acceptance_rate", "acceptance_histogram",
            "acceptance_rate_per_position", "num_spec_steps", "num_draft_tokens",
            "num_accepted_draft_tokens", "num_tokens", "prefill_s", "decode_s", "tokens_per_s",
            "draft_s", "verify_s", "calibration_s",
        )  # fmt: skip
        values = {name: getattr(self, name) for name in names}
        values["choices"] = dict(self.choices)
        if self.unasked:
            values["unasked"] = dict(self.unasked)
        if self.inner:
            keep = ("mean_acceptance_length", "draft_acceptance_rate", "num_spec_steps",
                    "num_draft_tokens", "num_accepted_draft_tokens")  # fmt: skip
            values["inner"] = {
                name: {key: getattr(stats, key) for key in keep}
                for name, stats in self.inner.items()
            }
        if self.reads:
            values["reads"] = {name: reads.to_dict() for name, reads in self.reads.items()}
        return values
