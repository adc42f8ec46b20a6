"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specdec.errors import InvalidArgument

Model = Annotated[
    str, typer.Option("--model", "-m", help="'demo', a hub id, a folder, or a .gguf file.")
]
Drafter = Annotated[
    str | None,
    typer.Option("--drafter", "-d", help="Who drafts: see `specdec list`. Default: auto."),
]
MaxNewTokens = Annotated[
    int,
    typer.Option("--max-new-tokens", "--max-tokens", "-n", help="Tokens to write at most."),
]
Temperature = Annotated[float, typer.Option("--temperature", "-t", help="0 is greedy.")]
TopP = Annotated[float | None, typer.Option(help="Only the most probable tokens that make up p.")]
Seed = Annotated[int | None, typer.Option(help="Of sampling; default: a new one.")]
NEW_TOKENS = 128  # where nothing is said, as in Engine.generate
Dtype = Annotated[
    str,
    typer.Option(
        help="auto, float32, bfloat16, float16 or float64; auto on a CPU: float32, but a GGUF's "
        "weights are read as they are stored; float32 dequantises them first."
    ),
]
Activations = Annotated[
    str,
    typer.Option(
        help="auto, int8 or float32: what a GGUF's weights are multiplied with on a CPU; int8 "
        "rounds activations to 8 bits, and auto takes it where that is exact."
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="auto, q4 or q8: round a safetensors checkpoint to 4 or 8 bits on a CPU, which is "
        "another model."
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
# Of trainings, which can be left and gone on with.
TrainingSeed = Annotated[int, typer.Option(help="Same seed and settings: same weights.")]
StopAfter = Annotated[
    int | None,
    typer.Option(help="Leave off after so many steps; the same command goes on from there."),
]
# Of measurements.
Turns = Annotated[int, typer.Option("--repeats", min=1, help="Measured turns; medians count.")]
OutFile = Annotated[Path | None, typer.Option(help="File to write the JSON document to.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
GpuMemory = Annotated[
    str | None,
    typer.Option(
        help="Of each GPU, for weights and KV together, as in 22GiB. Default: what is free.",
    ),
]
CpuMemory = Annotated[
    str | None,
    typer.Option(help="Of the host, for both, as in 60GiB."),
]
OffloadFolder = Annotated[
    Path | None,
    typer.Option(help="For KV and weights that go to disk."),
]
KvTier = Annotated[
    str,
    typer.Option(
        help="Where older KV lies: auto, device, host or disk. The text is the same.",
    ),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(help="auto spreads weights that do not fit."),
]
SavedDocuments = Annotated[
    list[Path] | None,
    typer.Option(
        help="A folder that --saved-prompt has made, to stand before the prompt; may be repeated.",
    ),
]
SavedPrompt = Annotated[
    Path | None,
    typer.Option(
        help="A folder with what has been read of this prompt; made if it is not there.",
    ),
]


def whole_numbers(option: str, text: str) -> list[int]:
    """Numbers from 1 on, separated by commas. Raises InvalidArgument, which names the option."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InvalidArgument(f"{option} {text!r}: give numbers, as in 1,16")
    return [int(part) for part in parts]
