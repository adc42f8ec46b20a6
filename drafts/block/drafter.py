"""BlockDrafter: a Block Transformer drafts a block of tokens for each step of its coarse model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache

from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Drafter, Reach, Traits
from specdec.drafts.block.checkpoint import load
from specdec.drafts.methods.block import BlockOptions
from specdec.method import DrafterMethod
from specdec.model.target import Target
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import Verdict


@dataclass(eq=False)
class Blocks:
    """What the block decoder has read of one row: blocks, its cache, and its state after each."""

    read: list[tuple[int, ...]] = field(default_factory=list)
    cache: DynamicCache = field(default_factory=DynamicCache)
    states: list[Tensor] = field(default_factory=list)

    def crop(self, count: int) -> None:
        """Forget all blocks but the first `count`."""
        if count < len(self.read):
            self.cache.crop(count - len(self.read))
            del self.read[count:], self.states[count:]


class BlockDrafter(Drafter):
    """Drafts a chain with the Block Transformer in `draft_model`, which shares the target's tokens.

    Blocks are counted from the prompt's end, so that its first one is padded from the left, as in
    the paper's training. A round goes on where it stands: it fills the block that is begun, then
    reads it with the block decoder, and drafts the next. Drafts are the most probable tokens, so
    they are deterministic; what verification takes back is cropped.
    """

    name = "block"
    Options: ClassVar[type[DrafterMethod]] = BlockOptions

    def __init__(self, target: Target, options: BlockOptions) -> None:
        self.model = load(options.draft_model).to(target.device, target.dtype)
        self.depth = options.num_draft_tokens
        self.vocab_size = min(self.model.vocab_size, target.vocab_size)
        longest = self.model.max_blocks * self.model.block_length
        self.reach = Reach(self.vocab_size, longest)
        self.traits = Traits(f"block-{options.draft_model}", self.depth)
        self._blocks: dict[int, Blocks] = {}
        self._pads: dict[int, int] = {}

    def leave(self, rows: Sequence[Row]) -> None:
        for row in rows:
            del self._blocks[row.index], self._pads[row.index]

    def join(self, rows: Sequence[Row], verifier: CachedModel) -> None:
        for row in rows:
            self._blocks[row.index] = Blocks()
            self._pads[row.index] = -row.num_prompt_tokens % self.model.block_length

    @torch.inference_mode()
    def propose(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        trees = []
        for row, limit in zip(rows, limits, strict=True):
            tree, node = TokenTree.root(row.tokens[-1]), 0
            text = [*[self.model.pad] * self._pads[row.index], *row.tokens]
            for _ in range(min(limit, self.depth)):
                token = self._next(self._blocks[row.index], text)
                text.append(token)
                node = tree.add(node, token, proposer=self.name)
            trees.append(tree)
        return trees

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        """Nothing: `propose` compares the text with the blocks that were read."""

    def _next(self, blocks: Blocks, text: list[int]) -> int:
        """The most probable token behind a padded text."""
        size = self.model.block_length
        whole = [tuple(text[i : i + size]) for i in range(0, len(text) - size + 1, size)]
        same = 0
        while same < min(len(whole), len(blocks.read)) and whole[same] == blocks.read[same]:
            same += 1
        blocks.crop(same)
        device = self.model.embedder.embeddings.weight.device
        if same < len(whole):
            new = torch.tensor(whole[same:], device=device)
            blocks.states += list(self.model.states(new, blocks.cache))
            blocks.read += whole[same:]
        begun = torch.tensor(text[len(whole) * size :], dtype=torch.long, device=device)
        logits = self.model.token_decoder(blocks.states[-1], begun)
        return int(logits[: self.vocab_size].argmax())
