"""`specdec env`: what a bug report needs to know of this machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from specdec.cli import arguments, console

_PACKAGES = {
    "specdec": "specdec-engine",
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "triton": "triton",
    "numba": "numba",
    "numpy": "numpy",
}


def env(as_json: arguments.AsJson = False) -> None:
    """Show versions, devices, threads and cache folders.

    \b
    Examples:
      specdec env
      specdec env --json
    """
    facts = _facts()
    if as_json:
        console.print_json(facts)
        return
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        table.add_row(name, "-" if shown in (None, "") else str(shown))
    console.out().print(table)


def _facts() -> dict[str, Any]:
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    from specdec.cachedir import cache_root

    devices = range(torch.cuda.device_count())
    return {
        **{name: _version(package) for name, package in _PACKAGES.items()},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_features": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(i) for i in devices],
        "specdec_cache": str(cache_root()),
        "hub_cache": HF_HUB_CACHE,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
