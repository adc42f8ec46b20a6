"""Every kernel variant that the engine launches, compiled to machine code without a GPU.

    python tests/lib/helpers/cubins.py          one JSON object: {"variants": [...]}
    python tests/lib/helpers/cubins.py --table  the table of docs/kernels.md
    python tests/lib/helpers/cubins.py --sm=90  for one generation of GPUs; a word picks variants

The ops' own launchers run here on tensors without storage, with Triton's launch replaced by its
compiler; so tiles, warps and argument specialisations are those of a real call. Run in a process of
its own, without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from helpers.variants import VARIANTS

# compute capability -> bytes of shared memory that one block may have
SHARED_LIMIT = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class NoDevice:
    """What Triton asks of a driver in order to compile, for a GPU that is not there."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(call: Callable[[], object], capability: int) -> list[Any]:
    """The kernels that `call` would have launched on a GPU of this capability."""
    kernels: list[Any] = []

    def compile_only(self: Any, grid: object) -> Callable[..., None]:
        def run(*args: object, **kwargs: object) -> None:
            kernels.append(self.run(*args, grid=grid, warmup=True, **kwargs))

        return run

    kept = triton.JITFunction.__getitem__
    before = driver._active
    driver.set_active(NoDevice(capability))
    triton.JITFunction.__getitem__ = compile_only
    try:
        call()
    finally:
        triton.JITFunction.__getitem__ = kept
        driver._active = before
    return kernels


def usage(cubin: bytes) -> SimpleNamespace:
    """Registers and bytes of local memory (spills and stack) per thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return SimpleNamespace(registers=found["REG"], spill=max(found["STACK"], found["LOCAL"]))


def measure(only: str = "", capabilities: Sequence[int] = ()) -> list[dict[str, Any]]:
    """One row per kernel of every variant and capability, by default of all."""
    rows = []
    for name, call in VARIANTS.items():
        if only not in name:
            continue
        for capability in capabilities or SHARED_LIMIT:
            limit = SHARED_LIMIT[capability]
            for kernel in compiled(call, capability):
                used = usage(kernel.asm["cubin"])
                rows.append(
                    dict(
                        variant=name,
                        kernel=kernel.metadata.name,
                        capability=capability,
                        warps=kernel.metadata.num_warps,
                        registers=used.registers,
                        spill=used.spill,
                        shared=kernel.metadata.shared,
                        shared_limit=limit,
                    )
                )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: registers / spilled bytes / KiB shared of each kernel, where first compiled."""
    lines: dict[tuple[str, str, int], dict[int, str]] = {}
    for row in rows:
        cell = f"{row['registers']} / {row['spill']} / {row['shared'] / 1024:.0f}"
        key = (row["variant"], row["kernel"], row["warps"])
        lines.setdefault(key, {})[row["capability"]] = cell
    head = "| variant | kernel | warps |" + "".join(f" sm_{c} |" for c in SHARED_LIMIT)
    text = [head, "|---|---|---|" + "---|" * len(SHARED_LIMIT)]
    seen = set()
    for (variant, kernel, warps), cells in lines.items():
        cells_text = "".join(f" {cells[c]} |" for c in SHARED_LIMIT)
        if (kernel, cells_text) in seen:
            continue
        seen.add((kernel, cells_text))
        text.append(f"| {variant} | `{kernel}` | {warps} |{cells_text}")
    return "\n".join(text)


if __name__ == "__main__":
    only = next((arg for arg in sys.argv[1:] if not arg.startswith("-")), "")
    rows = measure(only, [int(arg[5:]) for arg in sys.argv[1:] if arg.startswith("--sm=")])
    print(table(rows) if "--table" in sys.argv else json.dumps({"variants": rows}))
