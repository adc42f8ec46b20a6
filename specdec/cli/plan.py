"""`specdec plan`: what would fit where, and how fast it would be, before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdec.cli import arguments, console

if TYPE_CHECKING:
    from specdec.offload.plan import Plan
    from specdec.offload.rates import Rates


def plan(
    model: arguments.Model = "demo",
    context: Annotated[
        str | None,
        typer.Option(
            help="Tokens of prompt and answer: 131072 or 128k. Default: 32k, or all that it has."
        ),
    ] = None,
    sequences: Annotated[int, typer.Option(help="Texts decoded together.", min=1)] = 1,
    gpu_memory: Annotated[
        str | None, typer.Option(help="Of the GPU, as in 24GiB; without it the CPU decodes.")
    ] = None,
    cpu_memory: Annotated[
        str | None, typer.Option(help="Of the host, as in 60GiB. Default: what is free here.")
    ] = None,
    disk: Annotated[str | None, typer.Option(help="Of disk. Default: what is free here.")] = None,
    offload_folder: arguments.OffloadFolder = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    acceptance: Annotated[
        float, typer.Option(help="Assumed chance of each draft token.", min=0.0, max=0.999)
    ] = 0.9,
    gpu_rate: Annotated[
        float | None, typer.Option(help="GPU memory, GB/s. Default: measured, or 1,000 assumed.")
    ] = None,
    link_rate: Annotated[
        float | None, typer.Option(help="Host to GPU, GB/s. Default: measured, or 25 assumed.")
    ] = None,
    disk_rate: Annotated[float | None, typer.Option(help="Disk, GB/s. Default: measured.")] = None,
    as_json: arguments.AsJson = False,
) -> None:
    """Say what fits where, and what speed to expect.

    Nothing is downloaded or allocated.

    Ends with status 2, and the smallest change that would do, where it cannot work.

    \b
    Examples:
      specdec plan -m meta-llama/Llama-3.1-8B --context 128k --gpu-memory 24GiB
      specdec plan -m ./my-model --context 1M --offload-folder /scratch
    """
    import torch

    from specdec.errors import InvalidArgument
    from specdec.offload.memory import free_bytes, free_disk, parse_bytes
    from specdec.offload.plan import make_plan
    from specdec.placement import DTYPES

    if dtype not in DTYPES:
        raise InvalidArgument(f"--dtype {dtype!r}: give {', '.join(DTYPES)}")
    host = (
        free_bytes(torch.device("cpu"))
        if cpu_memory is None
        else parse_bytes(cpu_memory, "--cpu-memory")
    )
    device = host if gpu_memory is None else parse_bytes(gpu_memory, "--gpu-memory")
    found = make_plan(
        model,
        context=None if context is None else _tokens(context),
        sequences=sequences,
        device_memory=device,
        host_memory=host,
        disk=free_disk(offload_folder) if disk is None else parse_bytes(disk, "--disk"),
        rates=_rates(offload_folder, gpu_memory is None, gpu_rate, link_rate, disk_rate),
        dtype=DTYPES[dtype],
        acceptance=acceptance,
        on_cpu=gpu_memory is None,
    )
    if as_json:
        console.print_json(found.to_dict())
    else:
        console.out().print("\n".join(lines(found)), markup=False)


def lines(found: Plan) -> list[str]:
    """A plan in words."""
    from specdec.offload.memory import show_bytes as size

    kv, rates = found.kv, found.rates
    layers = "all layers' KV" if kv.tiers is None else (
        f"{kv.count('device')} layers' KV and the newest tokens of the others"
    )  # fmt: skip
    speed = (
        f"at most {found.tokens_per_s:.1f} tokens/s in rounds of {found.draft_tokens} draft tokens"
    )
    if not found.draft_tokens:
        speed = "no draft of the model itself would pay; n-grams or a small draft model may"
    return [
        f"{found.model}: {found.parameters:,} parameters, KV {size(found.token_bytes)} a token",
        f"{found.sequences} x {found.context:,} tokens: weights "
        f"{size(found.weights_device + found.weights_host)}, KV {size(found.kv_bytes)}",
        f"device: weights {size(found.weights_device)}, {layers}: {size(kv.device_bytes)}",
        f"host memory: weights {size(found.weights_host)}, KV {size(kv.host_bytes)}",
        f"disk: KV {size(kv.disk_bytes)}",
        f"rates: device {rates.device / 1e9:.0f} GB/s ({rates.source('device')}), link "
        f"{rates.link / 1e9:.1f} GB/s ({rates.source('link')}), disk {rates.disk / 1e9:.1f} GB/s "
        f"({rates.source('disk')})",
        f"plain decoding: at most {found.plain_tokens_per_s:.2f} tokens/s",
        f"speculation, at an assumed acceptance of {found.acceptance:g}: {speed}",
        *([f"or else: {found.alternative}"] if found.alternative else []),
    ]


def _tokens(text: str) -> int:
    """131072, 128k or 1M as a count."""
    from specdec.errors import InvalidArgument

    units = {"k": 1 << 10, "m": 1 << 20}
    number, unit = (text[:-1], units[text[-1].lower()]) if text[-1:].lower() in units else (text, 1)
    if not number.isdigit() or not int(number):
        raise InvalidArgument(f"--context {text!r}: give a number of tokens, as in 131072 or 128k")
    return int(number) * unit


def _rates(
    folder: Path | None, on_cpu: bool, gpu: float | None, link: float | None, disk: float | None
) -> Rates:
    """What was given, and the rest measured here, or assumed for a GPU that is not here."""
    import torch

    from specdec.offload import rates

    device = torch.device("cpu") if on_cpu else None
    if not on_cpu and torch.cuda.is_available():
        device = torch.device("cuda")
    told = {"device": gpu, "link": link, "disk": disk}
    given = {name: rate * 1e9 for name, rate in told.items() if rate is not None}
    if len(given) == len(told):
        return rates.Rates(given["device"], given["link"], given["disk"], given=tuple(given))
    found = rates.measure(folder, device)
    changes: dict[str, Any] = {
        **given,
        "measured": tuple(name for name in found.measured if name not in given),
        "given": tuple(given),
    }
    return replace(found, **changes)
