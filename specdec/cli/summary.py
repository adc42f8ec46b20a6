"""What a generation brought: a line of at most 80 columns, and with --verbose what is behind it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.cli import console

if TYPE_CHECKING:
    from specdec.decoding.output import Generation
    from specdec.forward.view_reads import ReadStats

_WIDTH = 80
_BETWEEN = " · "


@dataclass(frozen=True)
class Comparison:
    """A plain run of the first tokens of the same request. equal is None if not comparable."""

    num_tokens: int
    tokens_per_s: float
    equal: bool | None


def print_summary(result: Generation, comparison: Comparison | None) -> None:
    """To standard error, in red where the text is not plain decoding's."""
    lines = joined(short(result, comparison))
    if logging.getLogger("specdec").isEnabledFor(logging.INFO):
        lines += details(result, comparison)
    failed = comparison is not None and comparison.equal is False
    console.err().print("\n" + "\n".join(lines), style="red" if failed else "cyan", markup=False)


def joined(parts: list[str]) -> list[str]:
    """Parts in lines of at most 80 columns, none of them torn."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(_BETWEEN) + len(part) <= _WIDTH:
            lines[-1] += _BETWEEN + part
        else:
            lines.append(part)
    return lines


def short(result: Generation, comparison: Comparison | None) -> list[str]:
    """What everybody wants to know: how much, how fast, how much faster, and is it the same."""
    stats = result.stats
    speed = f"{stats.tokens_per_s:.1f} tok/s with {result.drafter}"
    if comparison is not None and comparison.tokens_per_s:
        speed += f", {stats.tokens_per_s / comparison.tokens_per_s:.2f}x plain"
    parts = [
        f"{len(result.token_ids)} tokens",
        speed,
        f"{stats.mean_acceptance_length:.2f} tokens/pass",
        verdict(result, comparison),
    ]
    return parts if result.seed is None else [*parts, f"seed {result.seed}"]


def details(result: Generation, comparison: Comparison | None) -> list[str]:
    """A line each: the end, what plain decoding took, acceptance, and what views read."""
    stats = result.stats
    lines = [f"ended by: {result.finish_reason}"]
    if comparison is not None:
        lines.append(
            f"plain decoding: {comparison.tokens_per_s:.1f} tok/s, over the first "
            f"{comparison.num_tokens} tokens once more, which are compared"
        )
    lines.append(f"acceptance rate: {stats.draft_acceptance_rate:.0%} of draft tokens")
    for name, inner in stats.inner.items():
        lines.append(
            f"{name}: acceptance rate {inner.draft_acceptance_rate:.0%}, "
            f"{inner.mean_acceptance_length:.2f} tokens a pass"
        )
    return lines + [_reads(name, reads) for name, reads in stats.reads.items()]


def verdict(result: Generation, comparison: Comparison | None) -> str:
    """Whether the text is plain decoding's, and how that is known."""
    if not result.lossless:
        return f"not lossless: view {result.view} leaves things out"
    if comparison is None:
        return "lossless"
    if comparison.equal is None:
        return "lossless in distribution"
    if comparison.equal:
        return "text equal"
    return "NOT the text of plain decoding: `specdec check` shows where"


def _reads(name: str, reads: ReadStats) -> str:
    """What a sparse view read, and whether it had nothing to leave out."""
    if reads.full_passes == reads.passes:
        return f"{name} read everything: the context is within its budget"
    shares = reads.to_dict()
    tokens, context = shares["tokens_per_pass"], shares["context_per_pass"]
    text = f"{name} read {tokens:.0f} of {context:.0f} tokens a pass"
    if tokens == context:
        part = shares["bytes_per_pass"] / shares["full_bytes_per_pass"]
        text = f"{name} read {context:.0f} tokens a pass in {part:.0%} of their bytes"
    if reads.full_passes:
        text += f" (everything in {reads.full_passes} of {reads.passes} passes)"
    return text
