"""GGUFVocab: what a GGUF file says of its tokens, read the way llama.cpp reads it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from specdec.errors import UnsupportedModel, WeightsError

log = logging.getLogger("specdec")

_PREFIX = "tokenizer.ggml."


class Kind(IntEnum):
    """What a token is for, in the numbers of `tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Kinds that are cut out of a text before anything else; of these a text shows only USER_DEFINED.
ADDED = (Kind.CONTROL, Kind.USER_DEFINED, Kind.UNKNOWN)

# Role -> key; the name within `tokenizer.ggml.` is the format's, misspelling included.
_ROLES = {
    "bos": "bos_token_id", "eos": "eos_token_id", "eot": "eot_token_id", "eom": "eom_token_id",
    "unk": "unknown_token_id", "sep": "seperator_token_id", "pad": "padding_token_id",
    "mask": "mask_token_id", "cls": "cls_token_id",
    "fim_pre": "fim_pre_token_id", "fim_suf": "fim_suf_token_id", "fim_mid": "fim_mid_token_id",
    "fim_pad": "fim_pad_token_id", "fim_rep": "fim_rep_token_id", "fim_sep": "fim_sep_token_id",
}  # fmt: skip
_OLD_ROLES = {"prefix_token_id": "fim_pre", "suffix_token_id": "fim_suf",
              "middle_token_id": "fim_mid"}  # fmt: skip

_UNDERSTOOD = {
    *(_PREFIX + name for name in (*_ROLES.values(), *_OLD_ROLES)),
    *(_PREFIX + name for name in (
        "model", "pre", "tokens", "token_type", "token_type_count", "scores", "merges",
        "add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix",
        "remove_extra_whitespaces", "precompiled_charsmap", "suppress_tokens",
    )),
    "tokenizer.chat_template", "tokenizer.chat_templates", "tokenizer.huggingface.json",
}  # fmt: skip

# Control tokens by their text, for files that name neither their role nor their kind.
_ENDS = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~[",
}  # fmt: skip
_FIM = {
    "fim_pre": ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<\uff5cfim\u2581begin\uff5c>",
                "<PRE>", "\u2581<PRE>", "<|code_prefix|>", "<|prefix|>"),
    "fim_suf": ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<\uff5cfim\u2581hole\uff5c>",
                "<SUF>", "\u2581<SUF>", "<|code_suffix|>", "<|suffix|>"),
    "fim_mid": ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<\uff5cfim\u2581end\uff5c>",
                "<MID>", "\u2581<MID>", "<|code_middle|>", "<|middle|>"),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}  # fmt: skip
_ENDING_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")  # of gpt-oss


@dataclass(frozen=True)
class GGUFVocab:
    """The tokens of a file, each with its kind and score, and the roles that some of them have.

    model: "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE).
    roles: "bos", "eos" and the like -> token id.
    ends: ids after which a text is over; ascending.
    trims: whether white space behind control tokens belongs to them.
    """

    model: str
    tokens: list[str]
    kinds: list[Kind]
    scores: list[float]
    roles: dict[str, int]
    ends: tuple[int, ...]
    trims: bool

    @property
    def added(self) -> Iterator[tuple[int, str]]:
        """Ids and texts of the tokens that are cut out of a text before anything else."""
        for i, kind in enumerate(self.kinds):
            if kind in ADDED:
                yield i, self.tokens[i]


def vocab_of(fields: Mapping[str, Any]) -> GGUFVocab | None:
    """The vocabulary in the metadata of a GGUF, key -> plain value; None where it has none.

    Raises UnsupportedModel for a kind of tokenizer, or a key of it, that we do not understand, and
    WeightsError for one that contradicts itself.
    """
    model = fields.get(_PREFIX + "model")
    if model is None or model in ("none", "no_vocab"):
        return None
    _check_understood(str(model), fields)
    tokens = [text or f"[EMPTY_{i}]" for i, text in enumerate(fields.get(_PREFIX + "tokens", ()))]
    if not tokens:
        raise WeightsError(f"{_PREFIX}tokens is missing or empty: the file is not whole")
    known: dict[int, Kind] = {kind.value: kind for kind in Kind}
    listed = _listed(fields, "token_type", len(tokens), Kind.NORMAL)
    kinds = [known.get(value, Kind.UNDEFINED) for value in listed]
    scores = [float(value) for value in _listed(fields, "scores", len(tokens), 0.0)]
    ids = {text: i for i, text in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(text for i, text in enumerate(tokens) if ids[text] != i)
        raise WeightsError(f"{_PREFIX}tokens holds {twice!r} twice: its ids have no one meaning")
    roles = _roles(fields, len(tokens), {"bos": 1, "eos": 2, "unk": 0} if model == "llama" else {})
    ends = _ends(ids, kinds, roles)
    trims = _trims(str(fields.get("general.name", "")))
    return GGUFVocab(str(model), tokens, kinds, scores, roles, ends, trims)


def end_ids(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids after which a text of this file's model is over, with or without a tokenizer."""
    vocab = vocab_of(fields)
    if vocab is not None:
        return vocab.ends
    roles = _roles(fields, 1 << 32, {})
    return tuple(sorted({roles[role] for role in ("eos", "eot", "eom") if role in roles}))


def _check_understood(model: str, fields: Mapping[str, Any]) -> None:
    if model not in ("gpt2", "llama"):
        raise UnsupportedModel(
            f"tokenizer.ggml.model is {model!r}: only 'gpt2' (byte-level BPE) and 'llama' "
            "(SentencePiece BPE) are understood. Give a safetensors folder of the same model"
        )
    for key in fields:
        named_template = key.startswith("tokenizer.chat_template.")
        if key.startswith("tokenizer.") and not named_template and key not in _UNDERSTOOD:
            raise UnsupportedModel(
                f"the file's tokenizer has a key {key} that is not understood, and its ids may "
                "depend on it. Give a safetensors folder of the same model"
            )
    for name in ("remove_extra_whitespaces", "precompiled_charsmap", "suppress_tokens"):
        if fields.get(_PREFIX + name):  # true, or a list that is not empty
            raise UnsupportedModel(
                f"{_PREFIX}{name} is set, and changes ids in a way that is not supported. Give a "
                "safetensors folder of the same model"
            )


def _listed(fields: Mapping[str, Any], name: str, length: int, default: Any) -> list[Any]:
    """A value for every token; the default for all where the file has none."""
    values = fields.get(_PREFIX + name)
    if values is None:
        return [default] * length
    if len(values) < length:
        raise WeightsError(f"{_PREFIX}{name} has {len(values)} entries for {length} tokens")
    return list(values[:length])


def _roles(fields: Mapping[str, Any], length: int, defaults: Mapping[str, int]) -> dict[str, int]:
    roles = {role: i for role, i in defaults.items() if i < length}
    for role, name in [*_ROLES.items(), *((role, name) for name, role in _OLD_ROLES.items())]:
        value = fields.get(_PREFIX + name)
        if value is None:
            continue
        if 0 <= int(value) < length:
            roles[role] = int(value)
        else:  # some writers say "none" this way
            log.warning("%s%s = %s is no token of the file: ignored", _PREFIX, name, value)
    return roles


def _ends(ids: Mapping[str, int], kinds: list[Kind], roles: dict[str, int]) -> tuple[int, ...]:
    """The ids that end a text. Kinds and roles that only names tell are filled in, in place."""
    for role, names in _FIM.items():
        if role not in roles and (found := [ids[name] for name in names if name in ids]):
            roles[role] = min(found)
            kinds[min(found)] = Kind.CONTROL
    named = {ids[name] for name in _ENDS if name in ids}
    for i in named:
        kinds[i] = Kind.CONTROL
    ends = named | {roles[role] for role in _ENDING_ROLES if role in roles}
    for name in _SHOWN:
        if name in ids:
            kinds[ids[name]] = Kind.USER_DEFINED
    has = {name for name in _ENDS if ids.get(name) in ends}
    calls = has & {"<|call|>", "<|calls|>"}
    if "<|end|>" in has and calls and has & {"<|return|>", "<|flush|>"}:
        ends.discard(ids["<|end|>"])  # there it ends a message, and the text goes on
        kinds[ids["<|end|>"]] = Kind.USER_DEFINED
    if "</s>" in has and "<|tool_response>" in has:
        ends.discard(ids["</s>"])  # there it is a token like others
        kinds[ids["</s>"]] = Kind.NORMAL
    return tuple(sorted(ends))


def _trims(name: str) -> bool:
    """Whether this is Phi-3, whose control tokens take white space with them; no key says so."""
    return any(mark in name.lower() for mark in ("phi-3", "phi3"))
