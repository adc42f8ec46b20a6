"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option("--model", "-m", help="'demo', a hub id, a folder, or a .gguf file.")
]
Drafter = Annotated[
    str | None,
    typer.Option("--drafter", "-d", help="Who drafts: see `specdec list`. Default: ngram."),
]
DraftModel = Annotated[
    str | None,
    typer.Option(
        help="A smaller model with the same token ids ('random': a useless one), or the checkpoint "
        "of a LongSpec drafter."
    ),
]
NumDraftTokens = Annotated[int | None, typer.Option(help="Depth of a draft.")]
DraftWidth = Annotated[int | None, typer.Option(help="Nodes per level; more than 1 is a tree.")]
Budget = Annotated[int | None, typer.Option(help="Tokens of context that a sparse view reads.")]
Dtype = Annotated[
    str, typer.Option(help="auto, float32, bfloat16, float16 or float64; auto on a CPU: float32.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let a model run Python code of its own.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
