"""Files with anything left out, added, changed or split: the right logits, or a refusal by name."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers as t

from specdec.errors import UnsupportedModel, WeightsError
from specdec.loading.loader import load

from helpers.gguf_models import CASES, keys_of, llama_cpp_logits, model_of, tensors_of, write

pytestmark = pytest.mark.fast

IDS = [1, 5, 9, 2, 44, 13, 7, 60]
ROUNDS = 10  # files of each architecture

# What a file may hold beside what it needs: none of it is in any of the models.
_KEYS: dict[str, Any] = {
    "rope.scaling.type": "yarn", "rope.scaling.factor": 3.0, "rope.scale_linear": 3.0,
    "rope.scaling.attn_factor": 0.7, "rope.scaling.original_context_length": 64,
    "rope.freq_base_swa": 700.0, "attention.sliding_window": 4,
    "attention.sliding_window_pattern": 3, "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 2.0, "logit_scale": 3.0, "residual_scale": 0.3,
    "embedding_scale": 3.0, "attention.scale": 0.9, "attention.clamp_kqv": 0.1,
    "expert_count": 3, "expert_used_count": 1, "expert_gating_func": 2,
    "expert_weights_scale": 2.5, "expert_weights_norm": False, "expert_shared_count": 1,
    "rope.dimension_count": 4, "attention.key_length": 24, "attention.value_length": 24,
    "attention.causal": False, "use_parallel_residual": True,
    "attention.layer_norm_rms_epsilon": 0.1, "rope.freq_base": 77.0, "hidden_activation": "gelu",
}  # fmt: skip
_TENSORS = {
    "rope_freqs.weight": 4, "rope_factors_long.weight": 4, "rope_factors_short.weight": 4,
    "blk.0.attn_q.bias": 32, "blk.1.attn_output.bias": 32, "blk.0.attn_q_norm.weight": 8,
    "blk.0.ffn_gate.bias": 48, "output.bias": 64, "output_norm.bias": 32,
    "blk.0.attn_norm.bias": 32, "blk.0.attn_sinks.weight": 4, "blk.1.post_ffw_norm.weight": 32,
    "blk.0.exp_probs_b.bias": 4,
}  # fmt: skip


class Whole(NamedTuple):
    architecture: str
    keys: dict[str, Any]
    tensors: dict[str, np.ndarray]
    logits: torch.Tensor


@functools.cache
def whole(name: str) -> Whole:
    case = CASES[name]()
    model: t.PreTrainedModel = model_of(case.config)
    more = {key: np.array(x, np.float32) for key, x in case.tensors.items()}
    tensors = {**more, **tensors_of(model, case.architecture)}
    with torch.inference_mode():
        logits = model(torch.tensor([IDS])).logits[0]
    return Whole(case.architecture, keys_of(case), tensors, logits)


@pytest.mark.parametrize("name", [name for name in CASES if name != "gemma2-27b"])
def test_any_file_gives_the_right_logits_or_an_error(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(list(name.encode()))
    architecture, keys, tensors, logits = whole(name)
    told = 0
    for turn in range(ROUNDS):
        here, there = dict(keys), dict(tensors)
        for key in rng.permutation(list(keys))[: rng.integers(3)]:
            del here[key]
        for tensor in rng.permutation(list(tensors))[: rng.integers(2)]:
            del there[tensor]
        for key in rng.permutation(list(_KEYS))[: rng.integers(3)]:
            here[key] = _KEYS[key]
        for tensor in rng.permutation(list(_TENSORS))[: rng.integers(2)]:
            if tensor not in tensors:
                there[tensor] = 1 + 0.5 * rng.random(_TENSORS[tensor])
        folder = tmp_path / str(turn)
        folder.mkdir()
        shards = int(rng.integers(3, 9)) if rng.random() < 0.4 else 0
        write(folder / "a.gguf", architecture, here, there, split_max_tensors=shards)
        files = sorted(folder.glob("*.gguf"))
        gone = (
            files.pop(int(rng.integers(len(files))))
            if len(files) > 1 and rng.random() < 0.3
            else None
        )
        path = files[int(rng.integers(len(files)))]
        if gone is not None:
            gone.unlink()
        torch.manual_seed(turn)  # weights that were left random would differ
        try:
            model = load(path, dtype="float32", device="cpu").model
        except (WeightsError, UnsupportedModel) as error:
            assert re.search(r"(blk|rope|output|token_embd)[\w.]+|a-000\d\d", str(error)) or any(
                f"{architecture}.{key}" in str(error) for key in (*keys, *_KEYS)
            ), str(error)
            told += 1
            continue
        assert gone is None
        with torch.inference_mode():
            ours = model(torch.tensor([IDS])).logits[0]
        changed = {key for key in {*here, *keys} if here.get(key) != keys.get(key)}
        if not changed and there.keys() == tensors.keys():
            right: torch.Tensor | None = logits
        else:
            right = _other_logits(path) if not _is_other_there(architecture, here) else None
        if right is not None:
            gap = (ours - right).abs().max() / right.abs().max()
            assert gap <= 3e-2, (gap, changed, {*there} ^ {*tensors})
    assert told  # so much is left out or added that something is refused


def _other_logits(path: Path) -> torch.Tensor | None:
    """llama.cpp's word on a file that is no model of ours any more; None where it has none."""
    pytest.importorskip("llama_cpp")
    try:
        return torch.from_numpy(llama_cpp_logits(path, IDS))
    except ValueError:
        return None


def _is_other_there(architecture: str, keys: dict[str, Any]) -> bool:
    """Whether llama.cpp is known to run another model, Phi-3 without its window, or to abort."""
    return (
        architecture == "gpt-oss" or "attention.sliding_window" in keys and architecture == "phi3"
    )
