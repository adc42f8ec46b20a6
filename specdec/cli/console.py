"""Where commands write: results to stdout, everything else to stderr."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console

from specdec.progress import is_speaker

if TYPE_CHECKING:
    from specdec.engine import Engine

# Control characters that a model may print to move the cursor or recolour the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def out() -> Console:
    """stdout; made anew for each command, as tests and pipes replace it."""
    return Console(soft_wrap=True, highlight=False)


def err() -> Console:
    """stderr; of several processes that make one text, only the first one's."""
    return Console(stderr=True, soft_wrap=True, highlight=False, quiet=not is_speaker())


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def write(text: str) -> None:
    """Text on stdout at once and as it is, for files and pipes."""
    sys.stdout.write(text)
    sys.stdout.flush()


class StderrHandler(logging.StreamHandler[Any]):
    """Log messages on whatever stderr is at the moment, as tests replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    @property
    def stream(self) -> Any:
        return sys.stderr


def harmless(text: str) -> str:
    """Text of a model without characters that a terminal obeys."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def load_engine(
    model: str, dtype: str, device: str, trust_remote_code: bool, **memory: Any
) -> Engine:
    """The engine of a command; the wait for PyTorch is shown on a terminal.

    memory: what `Engine.from_pretrained` takes of memory and processes.
    """
    # Imports make a million objects and no garbage: looking for some costs a fifth of the start,
    # and walking them again in later collections would pause the decoding.
    gc.disable()
    try:
        with err().status("Starting PyTorch"):
            from specdec.engine import Engine
        return Engine.from_pretrained(
            model, dtype=dtype, device=device, trust_remote_code=trust_remote_code, **memory
        )
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # or extension modules report what is left as leaks
        gc.enable()


def memory(
    gpu_memory: str | None,
    cpu_memory: str | None,
    offload_folder: Any,
    kv_tier: str,
    device_map: str | None,
) -> dict[str, Any]:
    """The options of memory as `Engine.from_pretrained` takes them."""
    limits: dict[int | str, str] = {}
    if gpu_memory is not None:
        import torch

        from specdec.errors import InvalidArgument

        limits.update(dict.fromkeys(range(torch.cuda.device_count()), gpu_memory))
        if not limits:
            raise InvalidArgument(
                f"--gpu-memory {gpu_memory}: PyTorch sees no GPU here; leave it out, or ask "
                "`specdec plan` what would happen on a machine that has one"
            )
    if cpu_memory is not None:
        limits["cpu"] = cpu_memory
    return {
        "max_memory": limits or None,
        "offload_folder": offload_folder,
        "kv_tier": kv_tier,
        "device_map": device_map,
        "tensor_parallel": True,  # where several processes were launched
    }
