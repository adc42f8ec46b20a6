"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option("--model", "-m", help="'demo', a hub id, a folder, or a .gguf file.")
]
Drafter = Annotated[
    str | None,
    typer.Option("--drafter", "-d", help="Who drafts: see `specdec list`. Default: auto."),
]
DraftModel = Annotated[
    str | None,
    typer.Option(
        help="A smaller model with the same token ids ('random': a useless one), or the checkpoint "
        "of a LongSpec drafter."
    ),
]
NumDraftTokens = Annotated[
    int | None,
    typer.Option("--num-draft-tokens", "--num-speculative-tokens", help="Depth of a draft."),
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", "--max-tokens", "-n")]
DraftWidth = Annotated[int | None, typer.Option(help="Nodes per level; more than 1 is a tree.")]
Budget = Annotated[int | None, typer.Option(help="Tokens of context that a sparse view reads.")]
_SPARSE = "Sparse views"
Sink = Annotated[
    int | None, typer.Option(help="First tokens that a view always reads.", rich_help_panel=_SPARSE)
]
Recent = Annotated[
    int | None, typer.Option(help="Last tokens that a view always reads.", rich_help_panel=_SPARSE)
]
Refresh = Annotated[
    str | None,
    typer.Option(
        help="When a view chooses anew: pass, round, falling, prompt, or every so many rounds.",
        rich_help_panel=_SPARSE,
    ),
]
Anchors = Annotated[
    str | None,
    typer.Option(
        help="Layers that choose for those above them, as in 2,10,20.", rich_help_panel=_SPARSE
    ),
]
DraftLayers = Annotated[
    int | None,
    typer.Option(help="Layers after which a self-draft leaves the model.", rich_help_panel=_SPARSE),
]
DraftWeights = Annotated[
    str | None,
    typer.Option(help="int8 or int4: a self-draft reads such a copy.", rich_help_panel=_SPARSE),
]
KvBits = Annotated[
    int | None,
    typer.Option(help="Bits of the keys and values that 'kivi' reads: 2, 4 or 8."),
]
LabelBits = Annotated[
    int | None, typer.Option(help="Bits of the labels that 'double-sparsity' keeps: 16 or 4.")
]
KvGroup = Annotated[
    int | None, typer.Option(help="Tokens that share a scale of 'kivi': 32, 64 or 128.")
]
Channels = Annotated[
    str | None,
    typer.Option(
        help="Label channels of 'double-sparsity': prompt, text, or a file of "
        "`specdec profile --calibrate-channels`.",
        rich_help_panel=_SPARSE,
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        help="What was measured of the model for a method that goes by it: auto, or a file of "
        "`specdec calibrate`.",
        rich_help_panel=_SPARSE,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="auto, float32, bfloat16, float16 or float64; auto on a CPU: float32, but a GGUF's "
        "weights are read as they are stored; float32 dequantises them first."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
# Heeded by `app.Command`, around all that a command does.
Threads = Annotated[
    int | None,
    typer.Option(
        help="Of the CPU, exactly so many. Default: all, or fewer while other programs want them."
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let a model run Python code of its own.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
_MEMORY = "Memory"
GpuMemory = Annotated[
    str | None,
    typer.Option(
        help="Of each GPU, for weights and KV together, as in 22GiB. Default: what is free.",
        rich_help_panel=_MEMORY,
    ),
]
CpuMemory = Annotated[
    str | None,
    typer.Option(help="Of the host, for both, as in 60GiB.", rich_help_panel=_MEMORY),
]
OffloadFolder = Annotated[
    Path | None,
    typer.Option(help="For KV and weights that go to disk.", rich_help_panel=_MEMORY),
]
KvTier = Annotated[
    str,
    typer.Option(
        help="Where older KV lies: auto, device, host or disk. The text is the same.",
        rich_help_panel=_MEMORY,
    ),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(help="auto spreads weights that do not fit.", rich_help_panel=_MEMORY),
]
SavedDocuments = Annotated[
    list[Path] | None,
    typer.Option(
        help="A folder that --saved-prompt has made, to stand before the prompt; may be repeated.",
        rich_help_panel=_MEMORY,
    ),
]
SavedPrompt = Annotated[
    Path | None,
    typer.Option(
        help="A folder with what has been read of this prompt; made if it is not there.",
        rich_help_panel=_MEMORY,
    ),
]
