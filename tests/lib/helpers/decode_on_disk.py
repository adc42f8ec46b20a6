"""Decodes a tiny model with its KV in the given folder; started, bounded and killed by
tests/offload/test_offload_errors.py. Arguments: the folder, the most bytes of a file or 0."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from specdec import Engine
from specdec.errors import OutOfMemory
from specdec.offload.kv_memory import KVMemory

from helpers import models


def main() -> None:
    folder, most = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    model = models.build("llama", dtype=torch.float64, max_position_embeddings=1 << 14)
    engine = Engine(model)
    engine.target.kv_memory = KVMemory("disk", folder=folder)
    engine.generate(list(range(40)) * 10, drafter="none", max_new_tokens=2)  # what is kept is kept
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        for step in engine.stream(list(range(40)) * 100, drafter="none", max_new_tokens=4000):
            print(step.token_ids, flush=True)
    except OutOfMemory as error:
        print(error, flush=True)
        sys.exit(3)


if __name__ == "__main__":
    main()
