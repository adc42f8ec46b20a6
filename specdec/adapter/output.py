"""What the adapter returns: transformers' own tensors, and tokens for its streamers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.utils import GenerateDecoderOnlyOutput


def padded(
    input_ids: Tensor, texts: list[list[int]], config: GenerationConfig
) -> Tensor | GenerateDecoderOnlyOutput:
    """Prompts and texts side by side, the shorter ones padded behind their end."""
    longest = max(map(len, texts))
    pad = pad_token(config)
    new = [[*text, *([pad] * (longest - len(text)))] for text in texts]
    sequences = torch.cat([input_ids, torch.tensor(new, device=input_ids.device)], dim=-1)
    return output(sequences, config)


def pad_token(config: GenerationConfig) -> int:
    """What stands behind the end of a row; without a token for it, transformers takes an end."""
    token = getattr(config, "_pad_token_tensor", None)
    return 0 if token is None else int(token)


def output(sequences: Tensor, config: GenerationConfig) -> Tensor | GenerateDecoderOnlyOutput:
    """The sequences, as the config wants them returned."""
    if config.return_dict_in_generate:
        return GenerateDecoderOnlyOutput(sequences=sequences)  # type: ignore[arg-type]
    return sequences


class WithoutPrompt:
    """A streamer that has the prompt already: transformers shows it before we are called."""

    def __init__(self, streamer: Any) -> None:
        self.streamer, self.seen = streamer, False

    def put(self, value: Tensor) -> None:
        if not self.seen:
            self.seen = True
            return
        for token in value.reshape(-1):  # one by one, as transformers' own loop does it
            self.streamer.put(token.reshape(1))

    def end(self) -> None:
        self.streamer.end()
