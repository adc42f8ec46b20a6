"""A GGUF file's tokenizer, built from its metadata: the ids are llama.cpp's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

from specdec.errors import UnsupportedModel, WeightsError
from specdec.loading.gguf.built_tokenizers import built_once
from specdec.loading.gguf.merges import SPACE, listed_merges, scored_merges
from specdec.loading.gguf.splits import DEFAULT, SPLITS, Split
from specdec.loading.gguf.vocab import GGUFVocab, Kind, vocab_of

_NOT_TRIMMING = ("<unk>", "<s>", "<|endoftext|>")  # of Phi-3


def tokenizer_of(fields: Mapping[str, Any]) -> PreTrainedTokenizerFast | None:
    """The tokenizer that the metadata of a GGUF (key -> plain value) describe; None without one.

    Raises UnsupportedModel for one that would give other ids than llama.cpp, by the name of the
    key that says so, and WeightsError for metadata that contradict themselves.
    """
    vocab = vocab_of(fields)
    if vocab is None:
        return None
    backend = built_once(fields, lambda: _backend(fields, vocab))
    roles = {
        f"{role}_token": vocab.tokens[vocab.roles[role]]
        for role in ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
        # A role does not make a token special: one of another kind stays text like any other.
        if role in vocab.roles and vocab.kinds[vocab.roles[role]] in (Kind.CONTROL, Kind.UNKNOWN)
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=_Given(backend),
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        chat_template=_chat_template(fields),
        **roles,
    )


class _Given:
    """A tokenizer to keep: transformers deep-copies what it is handed, for a second and more where
    the vocabulary is large."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __deepcopy__(self, _: dict[int, Any]) -> Tokenizer:
        return self._tokenizer


def _backend(fields: Mapping[str, Any], vocab: GGUFVocab) -> Tokenizer:
    """All that cuts a text into ids, and ids into text."""
    split = _split(fields) if vocab.model == "gpt2" else None
    if split is not None:
        backend = _byte_level(vocab, split, fields.get("tokenizer.ggml.merges"))
    else:
        backend = _sentencepiece(vocab, bool(fields.get("tokenizer.ggml.add_space_prefix", True)))
    _add_tokens(backend, vocab)
    add_bos = fields.get("tokenizer.ggml.add_bos_token", split.add_bos if split else True)
    add_eos = fields.get("tokenizer.ggml.add_eos_token", False)
    backend.post_processor = _frame(vocab, bool(add_bos), bool(add_eos))
    return backend


def _split(fields: Mapping[str, Any]) -> Split:
    pre = fields.get("tokenizer.ggml.pre") or DEFAULT
    if pre not in SPLITS:
        raise UnsupportedModel(
            f"tokenizer.ggml.pre is {pre!r}, a way of splitting text that is not understood; known "
            f"are {', '.join(sorted(SPLITS))}. Give a safetensors folder of the same model"
        )
    return SPLITS[pre]


def _byte_level(vocab: GGUFVocab, split: Split, merges: Sequence[str] | None) -> Tokenizer:
    """Byte-level BPE, its merges in the file."""
    ids = {text: i for i, text in enumerate(vocab.tokens)}
    pairs = listed_merges(ids, merges)
    backend = Tokenizer(models.BPE(ids, pairs, ignore_merges=split.ignore_merges))
    steps: list[Any] = [
        pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in split.patterns
    ]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    missing = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(ids))
    if missing:  # such bytes are dropped, and what stands beside them does not merge
        letters = "".join(f"\\x{{{ord(letter):x}}}" for letter in missing)
        steps.append(pre_tokenizers.Split(Regex(f"[{letters}]"), "removed"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(vocab: GGUFVocab, prefix: bool) -> Tokenizer:
    """BPE over characters: the pair whose sum scores best is merged first; bytes for the rest."""
    ids = {text: i for i, text in enumerate(vocab.tokens)}
    has_bytes = all(f"<0x{byte:02X}>" in ids for byte in range(256))
    unk = vocab.tokens[vocab.roles["unk"]] if "unk" in vocab.roles else None
    backend = Tokenizer(
        models.BPE(ids, scored_merges(vocab, ids), unk_token=unk, byte_fallback=has_bytes)
    )
    to_marks = normalizers.Replace(" ", SPACE)
    backend.normalizer = (
        normalizers.Sequence([to_marks, normalizers.Prepend(SPACE)]) if prefix else to_marks
    )
    to_text = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(
        [*to_text, decoders.Strip(" ", 1, 0)] if prefix else to_text
    )
    return backend


def _add_tokens(backend: Tokenizer, vocab: GGUFVocab) -> None:
    """Have the tokens that are cut out of a text first known as such."""
    tokens = [
        AddedToken(
            text,
            normalized=False,
            special=vocab.kinds[i] != Kind.USER_DEFINED,
            rstrip=vocab.trims and text not in _NOT_TRIMMING,
        )
        for i, text in vocab.added
    ]
    backend.add_special_tokens([token for token in tokens if token.special])
    backend.add_tokens([token for token in tokens if not token.special])


def _frame(vocab: GGUFVocab, add_bos: bool, add_eos: bool) -> processors.TemplateProcessing:
    """BOS before a text and EOS behind it, where they are asked for."""
    around: dict[str, int] = {}
    for role, wanted in (("bos", add_bos), ("eos", add_eos)):
        if wanted and role not in vocab.roles:
            raise WeightsError(
                f"the file asks for {role.upper()} around every text, and no "
                f"tokenizer.ggml.{role}_token_id says which token that is"
            )
        if wanted:
            around[role] = vocab.roles[role]
    bos, eos = ([role] if role in around else [] for role in ("bos", "eos"))
    pair = [*(f"{x}:0" for x in (*bos, "$A", *eos)), *(f"{x}:1" for x in (*bos, "$B", *eos))]
    return processors.TemplateProcessing(
        single=[*bos, "$A", *eos], pair=pair, special_tokens=list(around.items())
    )


def _chat_template(fields: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The file's template, or all of them by name where it has several."""
    start = "tokenizer.chat_template."
    named = {key.removeprefix(start): str(x) for key, x in fields.items() if key.startswith(start)}
    default = fields.get("tokenizer.chat_template")
    if not named:
        return default
    return named if default is None else {"default": str(default), **named}
