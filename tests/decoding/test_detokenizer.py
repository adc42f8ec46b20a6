"""Text from tokens one by one is what decoding them all together shows, for every tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from specdec.decoding.detokenizer import Detokenizer

pytestmark = pytest.mark.fast

SIGN = "\ufffd"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
# Bytes that make characters, break them, or are complete by themselves.
TELLING = sorted({*"é日🙂a ".encode(), 0xFF, 0x80})


def made(words: list[str], decoder: decoders.Decoder, **options) -> PreTrainedTokenizerFast:
    """A tokenizer with these tokens, one special token and one that is only added."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    backend.decoder = decoder
    backend.add_special_tokens([AddedToken("<s>", special=True, normalized=False)])
    backend.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def sentencepiece(*more: decoders.Decoder) -> decoders.Decoder:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, *more])


PIECES = ["▁", "▁ok", "x", "▁▁", "日", "."]
WORDS = ["do", "##ne", "n", "'", "t", ".", ",", "is", "s", "!", "##日", "##é"]
TOKENIZERS = {
    "byte-level": made([*LETTERS, "Ġok", "Ġ", "æĹ", "Ċ"], decoders.ByteLevel()),
    "sentencepiece": made([*BYTES, *PIECES], sentencepiece()),
    "sentencepiece, prefix": made([*BYTES, *PIECES], sentencepiece(decoders.Strip(" ", 1, 0))),
    "metaspace": made(PIECES, decoders.Metaspace()),
    "wordpiece": made(WORDS, decoders.WordPiece(cleanup=False)),
    "wordpiece, cleaned": made(
        WORDS, decoders.WordPiece(cleanup=False), clean_up_tokenization_spaces=True
    ),
    "bpe with ends of words": made(["do", "ne</w>", "it", ".</w>"], decoders.BPEDecoder("</w>")),
}


def ids(tokenizer: PreTrainedTokenizerFast, **sizes: int) -> st.SearchStrategy[list[int]]:
    """Tokens, often those of bytes and of what is no byte."""
    vocab = tokenizer.get_vocab()
    letters = (
        sign for x in ("é", "日", "🙂", "a") for sign in BYTE_LEVEL.pre_tokenize_str(x)[0][0]
    )
    names = [*(BYTES[byte] for byte in TELLING), *letters, *list(vocab)[-8:]]
    telling = [vocab[name] for name in names if name in vocab]
    return st.lists(st.sampled_from(telling) | st.integers(0, len(vocab) - 1), **sizes)


def behind(tokenizer: PreTrainedTokenizerFast, prompt: list[int], output: list[int]) -> str:
    """The text of the output; a character that the prompt only began is the output's."""
    whole = tokenizer.decode([*prompt, *output], skip_special_tokens=True)
    shown = [i for i in prompt if i not in tokenizer.all_special_ids]
    before = tokenizer.decode(shown)
    if not whole.startswith(before) and before.endswith(SIGN):
        shorter = [tokenizer.decode(shown[:-size]) for size in (1, 2, 3)]
        before = next((text for text in shorter if not text.endswith(SIGN)), before)
    assume(whole.startswith(before))  # or a byte of the output spoils the prompt's text
    return whole[len(before) :]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_join_to_the_decoded_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]

    @settings(max_examples=100)
    @given(ids(tokenizer, max_size=14), ids(tokenizer, min_size=1, max_size=14))
    def join(prompt: list[int], output: list[int]) -> None:
        whole = behind(tokenizer, prompt, output)
        detokenizer = Detokenizer(tokenizer, prompt)
        pieces = []
        for count, token in enumerate(output, start=1):
            pieces.append(detokenizer.push(token))
            so_far = "".join(pieces)
            assert detokenizer.text.startswith(so_far)
            assert detokenizer.num_settled == len(so_far)
            assert detokenizer.text.rstrip(SIGN) == behind(
                tokenizer, prompt, output[:count]
            ).rstrip(SIGN)
        assert "".join(pieces) + detokenizer.flush() == whole == detokenizer.text

    join()
