"""The tokenizer of a GGUF gives llama.cpp's ids, whatever split rule and tokens the file has."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from specdec.errors import UnsupportedModel, WeightsError
from specdec.loading.gguf import built_tokenizers
from specdec.loading.gguf import tokenizer as gguf_tokenizer
from specdec.loading.gguf.splits import SPLITS
from specdec.loading.gguf.tokenizer import tokenizer_of
from specdec.loading.gguf.vocab import end_ids

from helpers.llama_vocab import SIGNS, TEXTS, LlamaVocab, drawn, write

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<tool>"]
KINDS = [2, 3, 3, 3, 1, 4]  # <|im_end|> is not marked as what it is: its name tells
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
MORE = ["Ġseveral", "dZ", "'dZ"]  # a word without merges, and one across an English ending
RULES = {split: name for name, split in reversed(SPLITS.items())}  # one name for each


@pytest.fixture(scope="module")
def byte_level() -> dict[str, Any]:
    """A byte-level vocabulary whose merges cross every place where a rule may split."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=letters, show_progress=False, max_token_length=8
    )
    signs = " \n\r\t1aéA'.,/日"
    triples = [a + b + c for a in signs for b in signs for c in "a1 \n"]
    trained.train_from_iterator([*TEXTS[:-1], *TEXTS[:-1], *triples], trainer)
    vocab, model = trained.get_vocab(), json.loads(trained.to_str())["model"]
    return {
        "model": "gpt2",
        "tokens": [*SPECIAL, *sorted(vocab, key=vocab.__getitem__), *MORE],
        "token_type": KINDS + [1] * (len(vocab) + len(MORE)),
        "merges": [*(" ".join(pair) for pair in model["merges"]), "d Z", "' dZ"],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def sentencepiece(pieces: dict[str, float], **keys: Any) -> dict[str, Any]:
    """A SentencePiece vocabulary with bytes, these letters and pieces."""
    return {
        "model": "llama",
        "tokens": [*SPECIAL, *BYTES, *pieces],
        "token_type": KINDS + [6] * 256 + [1] * len(pieces),
        "scores": [0.0] * (len(SPECIAL) + 256) + list(pieces.values()),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **keys,
    }


def check(path: Path, texts: Iterable[str], name: str = "tiny", **keys: Any) -> list[list[int]]:
    """Ids of the texts, which are llama.cpp's for a file with these keys, as are its ends."""
    fields = write(path, name, **keys)
    theirs, ours, found = LlamaVocab(path), tokenizer_of(fields), []
    assert ours is not None
    for text in texts:
        found.append(theirs(text))
        assert ours(text)["input_ids"] == found[-1], text
        bare = ours(text, add_special_tokens=False)["input_ids"]
        assert bare == theirs(text, add_special=False), text
    assert list(end_ids(fields)) == theirs.ends
    return found


@pytest.mark.parametrize("pre", sorted(SPLITS))
def test_every_split_rule(tmp_path: Path, byte_level: dict[str, Any], pre: str) -> None:
    is_alias = RULES[SPLITS[pre]] != pre  # then little more than the name is new
    check(tmp_path / "x", [*TEXTS, *drawn(2 if is_alias else 40, SIGNS)], pre=pre, **byte_level)


def test_the_texts_tell_the_rules_apart(tmp_path: Path, byte_level: dict[str, Any]) -> None:
    """Or equal ids would say little: a rule under another's name must be noticed."""
    found: dict[str, str] = {}
    for pre in RULES.values():
        tokenizer = tokenizer_of(write(tmp_path / "x", pre=pre, **byte_level))
        assert tokenizer is not None
        ids = str([tokenizer(text)["input_ids"] for text in [*TEXTS, *drawn(40, SIGNS)]])
        assert found.setdefault(ids, pre) == pre


def test_a_file_that_names_no_rule(tmp_path: Path, byte_level: dict[str, Any]) -> None:
    check(tmp_path / "x", [*TEXTS, *drawn(40, SIGNS)], **byte_level)


@pytest.mark.parametrize("pre", ["llama-bpe", "smollm", "qwen2", "gpt-4o", "sentencepiece"])
def test_any_text(
    tmp_path_factory: pytest.TempPathFactory, byte_level: dict[str, Any], pre: str
) -> None:
    path = tmp_path_factory.mktemp(pre) / "x"
    keys = {"pre": pre, **byte_level} if pre in SPLITS else sentencepiece(PIECES)
    ours, theirs = tokenizer_of(write(path, **keys)), LlamaVocab(path)
    assert ours is not None
    signs = st.sampled_from(SIGNS) | st.characters(exclude_categories=["Cn", "Cs", "Co"])

    @settings(max_examples=60)
    @given(st.text(signs, max_size=40))
    def equal(text: str) -> None:
        assert ours(text)["input_ids"] == theirs(text)

    equal()


PIECES = {
    **dict.fromkeys("▁abAB0129\n.'", -100.0), "ab": -1.0, "▁a": -2.0, "▁ab": -3.0, "aa": -4.0,
    "aaa": -5.0, "aaaa": -6.0, "▁▁": -7.0, "▁▁▁▁": -8.0, "▁▁▁": -9.0, "\n\n": -10.0, "Ab": -1.5,
    "bA": -1.25, "12": -3.5, "129": -3.25, "▁1": -0.5,
}  # fmt: skip


@pytest.mark.parametrize("prefix", [None, True, False])
@pytest.mark.parametrize("around", [{}, {"add_bos_token": False}, {"add_eos_token": True}], ids=str)
def test_sentencepiece(tmp_path: Path, prefix: bool | None, around: dict[str, bool]) -> None:
    keys = around if prefix is None else {**around, "add_space_prefix": prefix}
    texts = [*TEXTS, *drawn(60, "aaabAB 0129\n.'é"), "a" * 23, "baaab <s> ab<tool>ab <tool> ab"]
    check(tmp_path / "x", texts, **sentencepiece(PIECES, **keys))


def test_random_sentencepiece(tmp_path: Path) -> None:
    """Overlapping pieces, with scores of their own or shared: llama.cpp's ids, or a refusal."""
    rng, refused = random.Random(0), 0
    for trial in range(60):
        pieces = dict.fromkeys("ab▁c", -100.0)
        while len(pieces) < 12:
            new = rng.choice([*pieces]) + rng.choice([*pieces])
            if len(new) < 7:
                pieces[new] = -rng.random() if trial % 3 else -float(rng.randint(1, 2))
        try:
            check(tmp_path / "x", drawn(40, "aab c"), **sentencepiece(pieces))
        except UnsupportedModel as error:
            assert "have one score" in str(error)
            refused += 1
    assert 0 < refused < 20


def test_runs_of_one_score(tmp_path: Path) -> None:
    """As Llama 2 has them for spaces: they grow from the left, sixteen at a time."""
    runs = {"▁" * n: -1e9 for n in range(2, 17)}
    pieces = {"▁": -100.0, "a": -100.0, "▁a": -1.0, **runs}
    texts = [" " * n + tail for n in range(40) for tail in ("", "a", "\n")]
    check(tmp_path / "x", texts, **sentencepiece(pieces))


def test_bytes_without_a_token(tmp_path: Path) -> None:
    """They are dropped, and their neighbours do not grow together."""
    keys = {"model": "gpt2", "pre": "gpt-2", "merges": ["a b"], "eos_token_id": 0}
    tokens = ["</s>", "a", "b", "ab", "Ġ"]
    assert check(tmp_path / "x", ["ab", "aéb ab", "日"], tokens=tokens, **keys) == [
        [3], [1, 2, 4, 3], []
    ]  # fmt: skip


@pytest.mark.parametrize("flags", [(True, True), (True, False), (False, False)])
def test_flags_go_before_the_rule(
    tmp_path: Path, byte_level: dict[str, Any], flags: tuple[bool, bool]
) -> None:
    around = {"add_bos_token": flags[0], "add_eos_token": flags[1], "pre": "llama-bpe"}
    ids = check(tmp_path / "x", ["a"], **byte_level, **around)[0]
    assert (ids[0] == 1, ids[-1] == 2) == flags


def test_control_tokens_that_take_white_space(tmp_path: Path) -> None:
    """Phi-3's do, and only the model's name tells."""
    texts = ["<|im_start|>\n\n a</s> \n<tool>  a <s> a", "<unk> a<|im_end|> a"]
    keys = sentencepiece({"▁": -1.0, "a": -2.0, "\n": -3.0, "<|endoftext|>": 0.0})
    plain = check(tmp_path / "x", texts, "my model", **keys)
    assert check(tmp_path / "x", texts, "Phi-3 Mini", **keys) != plain


ENDS = [
    {}, {"eot_token_id": 5}, {"eom_token_id": 5}, {"fim_pad_token_id": 5}, {"fim_sep_token_id": 3},
    {"bos_token_id": 4294967295}, {"fim_pre_token_id": 5},
]  # fmt: skip


@pytest.mark.parametrize("keys", ENDS, ids=str)
@pytest.mark.parametrize(
    "names",
    [
        ["<|eot_id|>", "<|end|>"], ["<|return|>", "<|call|>", "<|end|>", "<|channel|>"],
        ["<|flush|>", "<|calls|>", "<|end|>"], ["<end_of_turn>", "<eos>", "<|tool_response>"],
        ["<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|fim_prefix|>"], ["<PAD>", "<EOT>"],
    ],
)  # fmt: skip
def test_ends(tmp_path: Path, byte_level: dict[str, Any], names: list[str], keys: Any) -> None:
    """Names and keys that end a text, and text that holds them."""
    tokens = [*byte_level["tokens"], *names]
    kinds = [*byte_level["token_type"], *[1] * len(names)]
    new = {"tokens": tokens, "token_type": kinds, **keys}
    check(tmp_path / "x", ["a" + "b".join(names), "</s>a"], **{**byte_level, **new})


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"pre": "kimi-k2"}, UnsupportedModel, "pre is 'kimi-k2'.*llama-bpe"),
        ({"model": "rwkv"}, UnsupportedModel, "model is 'rwkv'"),
        ({"model": "bert"}, UnsupportedModel, "model is 'bert'"),
        ({"remove_extra_whitespaces": True}, UnsupportedModel, "remove_extra_whitespaces is set"),
        ({"precompiled_charsmap": [1, 2]}, UnsupportedModel, "precompiled_charsmap is set"),
        ({"suppress_tokens": [7]}, UnsupportedModel, "suppress_tokens is set"),
        ({"lowercase": True}, UnsupportedModel, "a key tokenizer.ggml.lowercase"),
        ({"merges": ["a \n"]}, UnsupportedModel, "merges holds"),
        ({"merges": ["a é"]}, UnsupportedModel, "merges holds"),
        ({"merges": None}, WeightsError, "merges is missing"),
        ({"tokens": []}, WeightsError, "tokens is missing or empty"),
        ({"tokens": ["a", "b", "a"]}, WeightsError, "'a' twice"),
        ({"token_type": [1, 1]}, WeightsError, "token_type has 2 entries"),
        ({"pre": "llama-bpe", "bos_token_id": None}, WeightsError, "bos_token_id"),
        ({"add_eos_token": True, "eos_token_id": None}, WeightsError, "eos_token_id"),
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused(
    byte_level: dict[str, Any], keys: dict[str, Any], error: type[Exception], message: str
) -> None:
    both = {**byte_level, **keys}
    fields = {f"tokenizer.ggml.{key}": x for key, x in both.items() if x is not None}
    with pytest.raises(error, match=message):
        tokenizer_of(fields)


def test_letters_without_a_token_are_refused() -> None:
    keys = sentencepiece({"ab": -1.0, "a": -2.0})
    with pytest.raises(UnsupportedModel, match="'ab' joins 'a' and 'b'"):
        tokenizer_of({f"tokenizer.ggml.{key}": value for key, value in keys.items()})


def test_no_tokenizer() -> None:
    assert tokenizer_of({"general.name": "x"}) is None
    assert tokenizer_of({"tokenizer.ggml.model": "none"}) is None
    assert end_ids({"tokenizer.ggml.eos_token_id": 7, "tokenizer.ggml.eot_token_id": 3}) == (3, 7)


def test_chat_templates(byte_level: dict[str, Any]) -> None:
    fields = {f"tokenizer.ggml.{key}": value for key, value in byte_level.items()}
    fields["tokenizer.chat_template"] = "{{ messages[0]['content'] }}!"
    one = tokenizer_of(fields)
    assert one is not None and one.chat_template == fields["tokenizer.chat_template"]
    several = tokenizer_of({**fields, "tokenizer.chat_template.tool_use": "tools"})
    assert several is not None
    assert several.chat_template == {"default": one.chat_template, "tool_use": "tools"}


def test_a_saved_tokenizer_is_the_same(tmp_path: Path, byte_level: dict[str, Any]) -> None:
    for keys in ({**byte_level, "pre": "llama-bpe"}, sentencepiece(PIECES)):
        tokenizer = tokenizer_of({f"tokenizer.ggml.{key}": x for key, x in keys.items()})
        assert tokenizer is not None
        tokenizer.save_pretrained(tmp_path)
        again = AutoTokenizer.from_pretrained(tmp_path)
        for text in [*TEXTS, *drawn(40, SIGNS)]:
            ids = tokenizer(text)["input_ids"]
            assert again(text)["input_ids"] == ids
            assert again.decode(ids) == tokenizer.decode(ids)


def test_what_is_shown(tmp_path: Path, byte_level: dict[str, Any]) -> None:
    """Control tokens are not, those that users have defined are, and a text comes back whole."""
    for keys in (byte_level, sentencepiece(PIECES, add_space_prefix=False)):
        tokenizer = tokenizer_of({f"tokenizer.ggml.{key}": x for key, x in keys.items()})
        assert tokenizer is not None
        text = "ab \n\n 日本é  <tool>a"
        ids = tokenizer(f"{text}<|im_end|>")["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_what_takes_long_is_built_once(
    tmp_path: Path, byte_level: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tokenizer comes back, for the same metadata; a damaged copy is built again."""
    monkeypatch.setattr(built_tokenizers, "cache_root", lambda: tmp_path / "cache")
    monkeypatch.setattr(built_tokenizers, "LONG", -1.0)
    keys = byte_level if kind == "byte-level" else sentencepiece(PIECES)
    fields, build, built = write(tmp_path / "x", **keys), gguf_tokenizer._backend, []

    def counted(*given: Any) -> Tokenizer:
        built.append(given)
        return build(*given)

    monkeypatch.setattr(gguf_tokenizer, "_backend", counted)
    first, again = tokenizer_of(fields), tokenizer_of({**fields, "tokenizer.chat_template": "x"})
    assert first is not None and again is not None and len(built) == 1
    assert again.chat_template == "x" and again.special_tokens_map == first.special_tokens_map
    assert again.backend_tokenizer.to_str() == first.backend_tokenizer.to_str()
    texts = [*TEXTS, *drawn(40, SIGNS), "<|im_start|> a<tool>b<s>"]
    assert [again(text)["input_ids"] for text in texts] == [first(x)["input_ids"] for x in texts]

    tokenizer_of({**fields, "tokenizer.ggml.add_eos_token": True})
    assert len(built) == 2, "another tokenizer"
    for kept in (tmp_path / "cache" / "tokenizers").glob("*/tokenizer.json"):
        kept.write_bytes(b"x" * kept.stat().st_size)
    assert tokenizer_of(fields) is not None and len(built) == 3
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(built_tokenizers, "cache_root", lambda: tmp_path / "file")
    assert tokenizer_of(fields) is not None and len(built) == 4, "nothing can be kept here"


def test_what_is_built_fast_is_not_kept(
    tmp_path: Path, byte_level: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(built_tokenizers, "cache_root", lambda: tmp_path / "cache")
    monkeypatch.setattr(built_tokenizers, "LONG", 60.0)
    assert tokenizer_of(write(tmp_path / "x", **byte_level)) is not None
    assert not (tmp_path / "cache").exists()
