"""Starting: seconds and memory from nothing to the first token, in processes of their own.

`profile_starts` starts processes of this module one after the other; each loads the model, writes a
few tokens and says what that took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from specdec import machine
from specdec.errors import InvalidArgument

PROMPT = [1, 2, 3, 4, 5, 6, 7, 8]
TOKENS = 8  # written behind the first
_GB = 1e9


def profile_starts(model: str, repeats: int, **settings: str) -> dict[str, Any]:
    """The first start, which compiles what is run, then `repeats` more; the text is plain decoding.

    model: a path; settings: of `Engine.from_pretrained`. Seconds: `imports` (Python, PyTorch,
    transformers and ours), `load`, `token` (the first one, its prompt of 8 included), and `whole`,
    from the start of the process to the first token; `step` for each further token. Bytes: `peak`
    of what was resident, pages of the file that were mapped in at that time included, and
    `resident` at the end. The file may be in the system's cache, and is from the second start on.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = {"SPECDEC_CACHE": f"{folder}/cache", "NUMBA_CACHE_DIR": f"{folder}/kernels"}
        starts = [_start(model, made, settings) for _ in range(1 + repeats)]
        kept = sum(path.stat().st_size for path in Path(made["SPECDEC_CACHE"]).rglob("*"))
    size = file_bytes(Path(model))
    return {
        "machine": machine.facts(),
        "model": model,
        "settings": settings,
        "file": size,
        "goal": 1.3 * size + _GB,
        "cached": kept,
        "starts": starts,
    }


def file_bytes(path: Path) -> int:
    """Bytes of a GGUF, or of the weights in a folder."""
    files = [path] if path.is_file() else list(path.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files)


def _start(model: str, made: dict[str, str], settings: dict[str, str]) -> dict[str, float]:
    begun = perf_counter()
    environment = {**os.environ, **made, "PYTHONSAFEPATH": "1"}  # what is installed
    with subprocess.Popen(
        [sys.executable, "-m", __name__, model, json.dumps(settings)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        whole = perf_counter() - begun
        said = process.stdout.readline()
    if not said:
        raise InvalidArgument(f"the process ended before it had decoded: try {model} by itself")
    found = json.loads(said)
    return {**found, "imports": whole - found["load"] - found["token"], "whole": whole}


def _resident() -> tuple[int, int]:
    """Bytes of this process that are in memory: the most so far, and now."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak, now = (1024 * int(lines[name].split()[0]) for name in ("VmHWM", "VmRSS"))
    return peak, now


def work(arguments: Sequence[str]) -> None:
    """The other end: one start."""
    model, settings = arguments[0], json.loads(arguments[1])
    from specdec.engine import Engine
    from specdec.loading import loader  # noqa: F401  # what loading imports

    clock = [perf_counter()]
    engine = Engine.from_pretrained(model, **settings)
    clock.append(perf_counter())
    stream = engine.stream(PROMPT, drafter="none", max_new_tokens=1 + TOKENS, eos_token_id=[])
    next(stream)
    clock.append(perf_counter())
    print("first token", flush=True)
    count = sum(len(step.token_ids) for step in stream)
    step = (perf_counter() - clock[-1]) / count
    peak, resident = _resident()
    load, token = clock[1] - clock[0], clock[2] - clock[1]
    said = {"load": load, "token": token, "step": step}
    print(json.dumps({**said, "peak": peak, "resident": resident}), flush=True)


if __name__ == "__main__":
    work(sys.argv[1:])
