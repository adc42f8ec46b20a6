"""OpenVino: OpenVINO GenAI on the same GGUF file, plainly and with its prompt lookup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from specdec.bench.contestants import Asked, Run, Stopwatch, text_alone
from specdec.bench.llama_cpp import file_of
from specdec.errors import InvalidArgument

_LOOKUP = {"num_assistant_tokens": 5, "max_ngram_size": 3}  # its own documentation's settings


class OpenVino:
    """Decoding by OpenVINO GenAI with as many threads as we use."""

    def __init__(self, name: str, file: Path, lookup: bool) -> None:
        self.name = name
        self.genai = _package()
        self.lookup = _LOOKUP if lookup else {}
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        if lookup:
            settings["prompt_lookup"] = True
        self.pipeline: Any = self.genai.LLMPipeline(str(file), "CPU", **settings)

    def run(self, ids: Asked, max_new_tokens: int, temperature: float, seed: int) -> Run:
        import numpy as np
        from openvino import Tensor

        config = self.genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = max_new_tokens
        config.ignore_eos = True
        config.do_sample = bool(temperature)
        if temperature:
            config.temperature, config.rng_seed = temperature, seed
        for setting, value in self.lookup.items():
            setattr(config, setting, value)
        watch = Stopwatch()
        tokens: list[int] = []
        going_on = self.genai.StreamingStatus.RUNNING

        class Noting(self.genai.StreamerBase):  # type: ignore[name-defined]
            def write(self, new: int | list[int]) -> Any:
                found = [new] if isinstance(new, int) else list(new)
                tokens.extend(map(int, found))
                watch.note(len(found))
                return going_on

            def end(self) -> None:
                """Part of its protocol."""

        prompt = np.array([text_alone(ids, self.name)], np.int64)
        inputs = self.genai.TokenizedInputs(Tensor(prompt), Tensor(np.ones_like(prompt)))
        self.pipeline.generate(inputs, config, Noting())
        return Run(tokens, watch.tokens_per_s, watch.first_s)


def contestant(name: str, model: Any) -> OpenVino:
    """`openvino`, or `openvino-pld` with prompt lookup, on the GGUF that `model` came from.

    Raises InvalidArgument if the package is missing, or the model did not come from a GGUF.
    """
    _package()
    return OpenVino(name, file_of(model, name), lookup=name.endswith("-pld"))


def _package() -> Any:
    try:
        import openvino_genai
    except ImportError as error:
        raise InvalidArgument(
            "baselines 'openvino' and 'openvino-pld' need openvino-genai: pip install "
            "openvino-genai, or leave them out"
        ) from error
    return openvino_genai
