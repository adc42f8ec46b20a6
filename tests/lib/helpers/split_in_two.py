"""One rank of a tensor-parallel engine; started by `torchrun` in tests/offload/test_ranks.py.

Arguments: the model's folder, the file to write to.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from specdec import Engine, ranks
from specdec.forward.full_view import FullView
from specdec.offload.kv_memory import KVMemory
from specdec.offload.split import Sizes

PROMPTS = [[1, 2, 3, 4, 5] * 6, [7, 8, 9]]
RUNS = [
    {"drafter": "none"},
    {"drafter": "auto", "seed": 4, "temperature": 1.0},
    {"drafter": "triforce"},
    {"drafter": "ngram", "temperature": 1.0},  # without a seed: the first rank's counts
    {"drafter": "quest", "budget": 24, "sink": 4, "recent": 4},
]


def main() -> None:
    folder, out = sys.argv[1:]
    torch.set_num_threads(1)
    engine = Engine.from_pretrained(folder, dtype="float64", tensor_parallel=True)
    texts = []
    for tier in ("device", "disk"):
        engine.target.kv_memory = KVMemory(tier, sizes=Sizes(window=4, block=3, staging_bytes=700))
        for run in RUNS:
            found = engine.generate(PROMPTS, max_new_tokens=16, **run)
            texts.append([[g.token_ids for g in found], found[0].seed])
    heads = engine.target.new_store(1, 4096)
    engine.target.prefill(heads, FullView(), 0, [1, 2, 3])
    document = {
        "texts": texts,
        "kv_heads": heads.levels[0 if tier == "device" else 1].k[0].shape[1],
    }
    rank = torch.distributed.get_rank()
    Path(f"{out}.{rank}").write_text(json.dumps(document))
    ranks.leave()


if __name__ == "__main__":
    main()
