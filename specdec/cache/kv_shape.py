"""KVShape: how many bytes a token's keys and values take, from a model's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class KVShape:
    """Keys and values of one token: `layers` times `2 * kv_heads * head_dim` numbers."""

    layers: int
    kv_heads: int
    head_dim: int
    itemsize: int

    @classmethod
    def of(cls, config: Any, dtype: torch.dtype) -> KVShape:
        """From a transformers configuration of a decoder."""
        config = config.get_text_config()
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            itemsize=dtype.itemsize,
        )

    @property
    def layer_bytes(self) -> int:
        """Bytes of a token in one layer."""
        return 2 * self.kv_heads * self.head_dim * self.itemsize

    @property
    def token_bytes(self) -> int:
        """Bytes of a token in all layers."""
        return self.layers * self.layer_bytes
