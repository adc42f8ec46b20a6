"""Drafters that do everything a drafter may do wrong, and a tokenizer for the tiny models."""

from __future__ import annotations

import random

from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from specdec import Law, TokenTree


class Hostile:
    """Base: proposes what `tree(row, limit)` says; subclasses are made by `generate(drafter=)`."""

    name = "hostile"

    def __init__(self, target, options):
        self.vocab_size = target.vocab_size
        self.rng = random.Random(0)
        self.observed, self.rows = 0, set()

    def join(self, rows, verifier):
        self.rows |= {row.index for row in rows}

    def leave(self, rows):
        self.rows -= {row.index for row in rows}

    def propose(self, rows, limits):
        return [self.tree(row, limit) for row, limit in zip(rows, limits, strict=True)]

    def observe(self, rows, trees, verdicts):
        for row, tree, verdict in zip(rows, trees, verdicts, strict=True):
            assert row.tokens[-1] == verdict.tokens[-1]
            assert [tree.tokens[i] for i in verdict.path[1:]] == verdict.tokens[
                : verdict.num_accepted
            ]
            self.observed += 1


class Empty(Hostile):
    """Never drafts."""

    def tree(self, row, limit):
        return TokenTree.root(row.tokens[-1])


class Constant(Hostile):
    """Always the same token, far past every limit."""

    def tree(self, row, limit):
        return TokenTree.chain(row.tokens[-1], [7] * 300, self.name)


class RandomTrees(Hostile):
    """Random trees of random size and shape, often deeper than the limit."""

    def tree(self, row, limit):
        tree = TokenTree.root(row.tokens[-1])
        for _ in range(self.rng.randrange(70)):
            tree.add(
                self.rng.randrange(len(tree)), self.rng.randrange(self.vocab_size), proposer="r"
            )
        return tree


class Bushy(Hostile):
    """The whole vocabulary below the root, and again below one node: always one accepted."""

    def tree(self, row, limit):
        tree = TokenTree.root(row.tokens[-1])
        for token in range(self.vocab_size):
            tree.add(0, token, proposer=self.name)
        for token in reversed(range(self.vocab_size)):
            tree.add(1 + self.rng.randrange(self.vocab_size), token, proposer=self.name)
        return tree


class Repeated(Hostile):
    """The same token many times below one node, as i.i.d. draws would give."""

    def tree(self, row, limit):
        tree = TokenTree.root(row.tokens[-1])
        for _ in range(6):
            tree.tokens.append(self.rng.randrange(3))
            tree.parents.append(self.rng.randrange(len(tree.tokens) - 1))
            tree.laws.append(Law.POINT)
            tree.proposers.append(self.name)
        return tree


def replay(texts, wrong_every=0):
    """A drafter that knows the text (`texts[row]`: output tokens), and errs now and then."""

    class Replay(Hostile):
        """Drafts the true continuation to the end of the text and past it."""

        def tree(self, row, limit):
            done = len(row.tokens) - row.num_prompt_tokens
            tokens = [*texts[row.index][done:], 1, 2, 3]
            if wrong_every:
                tokens = [
                    (t + 1) % self.vocab_size if (done + i) % wrong_every == 0 else t
                    for i, t in enumerate(tokens)
                ]
            return TokenTree.chain(row.tokens[-1], tokens, self.name)

    return Replay


HOSTILE = [Empty, Constant, RandomTrees, Bushy, Repeated]


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Token i is a letter pair followed by nothing, so that stop strings may span tokens; every
    sixth ends a sentence."""
    words = {chr(97 + i // 6) + "xyzuv."[i % 6]: i for i in range(size)}
    backend = Tokenizer(WordLevel(words, unk_token="ax"))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend)
