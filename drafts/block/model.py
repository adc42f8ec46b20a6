"""BlockTransformer: a coarse model of blocks, and a local one of their tokens (2406.02657)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GPTNeoXConfig, GPTNeoXModel


class Embedder(nn.Module):
    """A block's embedding `[n, L * d]` is that of its L tokens `[n, L]`, side by side."""

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.embeddings(tokens).flatten(-2)
        return out


class BlockDecoder(nn.Module):
    """Reads the embeddings of all blocks so far; says what it thinks of the next one."""

    def __init__(self, config: GPTNeoXConfig) -> None:
        super().__init__()
        self.gpt_neox = GPTNeoXModel(config)


class TokenDecoder(nn.Module):
    """Reads the block decoder's state as `prefix` positions, and the block's tokens so far."""

    def __init__(self, config: GPTNeoXConfig, block_dim: int, prefix: int) -> None:
        super().__init__()
        self.gpt_neox = GPTNeoXModel(config)
        self.embed_out = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.expansion_layer = nn.Conv1d(block_dim, prefix * config.hidden_size, kernel_size=1)
        self.prefix = prefix

    def forward(self, state: Tensor, tokens: Tensor) -> Tensor:
        """Logits `[V]` of the token behind `tokens [m]` of the block that `state [D]` leads to."""
        expanded = self.expansion_layer(state[None, :, None])[0, :, 0].view(self.prefix, -1)
        inputs = torch.cat([expanded, self.gpt_neox.embed_in(tokens)])[None]
        hidden = self.gpt_neox(inputs_embeds=inputs, use_cache=False).last_hidden_state
        out: Tensor = self.embed_out(hidden[0, -1])
        return out


class BlockTransformer(nn.Module):
    """The Block Transformer of Ho et al. 2024, as its main models are: a lookup embedder, GPT-NeoX
    decoders, and prefix decoding. Names of weights are those of the released checkpoints.

    block_length: tokens of a block (4). prefix: positions that a block's state takes in the token
    decoder (2). pad: the token that fills the first block from the left. The first token of a
    block sees the text up to the block before it, as all of its tokens do.
    """

    def __init__(
        self,
        block_length: int,
        prefix: int,
        pad: int,
        block_decoder: dict[str, Any],
        token_decoder: dict[str, Any],
    ) -> None:
        super().__init__()
        blocks, tokens = GPTNeoXConfig(**block_decoder), GPTNeoXConfig(**token_decoder)
        self.block_length, self.pad = block_length, pad
        self.max_blocks = int(blocks.max_position_embeddings)
        self.embedder = Embedder(tokens.vocab_size, blocks.hidden_size // block_length)
        self.block_decoder = BlockDecoder(blocks)
        self.token_decoder = TokenDecoder(tokens, blocks.hidden_size, prefix)

    @property
    def vocab_size(self) -> int:
        return self.embedder.embeddings.num_embeddings

    def states(self, blocks: Tensor, cache: DynamicCache) -> Tensor:
        """The block decoder's states `[n, D]` after each of `blocks: int64[n, L]`, which stand
        behind those in `cache`, where they are added."""
        inputs = self.embedder(blocks)[None]
        out = self.block_decoder.gpt_neox(
            inputs_embeds=inputs, past_key_values=cache, use_cache=True
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden
