"""Reports: a measurement as a Markdown table."""

from __future__ import annotations

from typing import Any


def markdown(document: dict[str, Any]) -> str:
    """One row a workload: everyone's tokens/s, and how often as fast as transformers or plain."""
    names = list(document["workloads"][0]["contestants"])
    base = "hf" if "hf" in names else "plain"
    machine = document["machine"]
    lines = [
        f"{document['model']}, {document['dtype']}, {machine['cpu']}, {machine['cores']} threads, "
        f"torch {machine['torch']}, transformers {machine['transformers']}, commit "
        f"{machine['commit']}; median of {document['repeats']}; in brackets: times {base}.",
        "",
        "| workload | prompt + new tokens | " + " | ".join(f"{n} tok/s" for n in names)
        + " | acceptance length | same text |",
        "|---|---|" + "---|" * (len(names) + 2),
    ]  # fmt: skip
    for row in document["workloads"]:
        cells = row["contestants"]
        reference = cells[base]["tokens_per_s"]
        speeds = [
            f"{cells[n]['tokens_per_s']:.1f} ({cells[n]['tokens_per_s'] / reference:.2f}x)"
            for n in names
        ]
        lengths = [
            f"{cells[n]['acceptance_length']:.2f}"
            for n in names
            if n != "plain" and cells[n]["acceptance_length"] is not None
        ]
        equal = [f"{cells[n]['tokens_equal_to_plain']}" for n in names if n != "plain"]
        flag = " (ends in a loop)" if row["loops"] else ""
        lines.append(
            f"| {row['workload']}{flag} | {row['prompt_tokens']} + {row['new_tokens']} | "
            + " | ".join(speeds)
            + f" | {', '.join(lengths)} | {', '.join(equal)} of {row['new_tokens']} |"
        )
    return "\n".join(lines) + "\n"
