"""A drafter of your own: python examples/own_drafter.py

It guesses that the text goes on as it did after the last full stop. Wrong guesses cost time, never
the text.
"""

from specdec import Engine, TokenTree


class Sentences:
    """Drafts the tokens that followed the last token like the one before."""

    name = "sentences"

    def join(self, rows, verifier):
        """Rows that join, each with its prompt."""

    def leave(self, rows):
        """Rows whose texts are at an end."""

    def propose(self, rows, limits):
        """A tree for each row, over its last token; at most limits[i] deep."""
        return [self._tree(row.tokens, limit) for row, limit in zip(rows, limits, strict=True)]

    def observe(self, rows, trees, verdicts):
        """What became of the trees."""

    def _tree(self, text, limit):
        before = text[:-1]
        if text[-1] not in before:
            return TokenTree.root(text[-1])
        place = len(before) - 1 - before[::-1].index(text[-1])
        return TokenTree.chain(text[-1], text[place + 1 : place + 1 + limit])


if __name__ == "__main__":
    engine = Engine.from_pretrained("demo")
    out = engine.generate("a b c d. a b c d. a b", drafter=Sentences, max_new_tokens=32)
    print(out)
    print(f"{out.stats.draft_acceptance_rate:.0%} of its drafts were accepted")
