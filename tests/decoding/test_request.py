"""What a call may say, and what it is told when it cannot be honoured."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from specdec import Engine, SamplingParams
from specdec.decoding.detokenizer import Detokenizer
from specdec.errors import InvalidArgument, PromptTooLong, VocabularyMismatch

from helpers import hostile, models

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def engine():
    tokenizer = hostile.tokenizer(models.VOCAB)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return Engine(models.build("llama"), tokenizer)


BAD = [
    ({"max_new_token": 5}, "did you mean 'max_new_tokens'"),
    ({"temprature": 5}, "did you mean 'temperature'"),
    ({"drafter": "modle"}, "did you mean 'model'"),
    ({"drafter": "ngram+none"}, "combines"),
    ({"drafter": "ngram + ngram"}, "combines"),
    ({"drafter": "NGRAM"}, "did you mean 'ngram'"),
    ({"drafter": "ngram+ngram"}, "combines"),
    ({"drafter": "model"}, "needs draft_model="),
    ({"drafter": "ngram", "draft_model": "x"}, "no use for draft_model"),
    ({"drafter": "ngram", "budget": 512}, "no use for budget"),
    ({"drafter": "none", "num_draft_tokens": 4}, "no use for num_draft_tokens"),
    ({"acceptance": "couple"}, "did you mean 'coupled'"),
    ({"view": "ful"}, "did you mean 'full'"),
    ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ({"max_new_tokens": 2.5}, "max_new_tokens=2.5"),
    ({"max_tokens": 3, "max_new_tokens": 4}, "mean the same"),
    ({"temperature": -1}, "temperature=-1"),
    ({"top_p": 1.5}, "top_p=1.5"),
    ({"top_p": 0.0, "temperature": 1.0}, "keeps no token"),
    ({"do_sample": False, "temperature": 0.7}, "contradict"),
    ({"do_sample": True, "temperature": 0.0}, "contradict"),
    ({"num_return_sequences": 2}, "same text each time"),
    ({"repetition_penalty": 0.0}, "divides by zero"),
    ({"logit_bias": {99: 1.0}}, "token 99"),
    ({"bad_words_ids": [[1, 40]]}, "token 40"),
    ({"stop": [""]}, "empty string"),
    ({"seed": 1 << 64}, "64 bits"),
    ({"num_draft_tokens": 0}, "num_draft_tokens=0"),
    ({"gamma": 3}, "unknown argument 'gamma'"),
    ({"min_new_tokens": 9, "max_new_tokens": 3}, "exceeds"),
    ({"sampling_params": SamplingParams(), "top_k": 3}, "top_k"),
    ({"generation_config": GenerationConfig(num_beams=3)}, "num_beams=3"),
    ({"generation_config": GenerationConfig(guidance_scale=2.0)}, "guidance_scale"),
]


@pytest.mark.parametrize(("kwargs", "message"), BAD, ids=lambda x: str(x)[:40])
def test_bad_arguments(engine, kwargs, message):
    with pytest.raises(InvalidArgument, match=message):
        engine.generate([1, 2], **kwargs)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "no tokens|empty"), ([], "empty"), ([[]], "no tokens"), ([1, 40], "token id"),
        ([1, True], "token id"), (3, "give a string"), ([1.5], "token id|not text"),
        (torch.zeros(1, 1, 1), "dimensions"),
    ],
)  # fmt: skip
def test_bad_prompts(engine, prompt, message):
    with pytest.raises(InvalidArgument, match=message):
        engine.generate(prompt)


def test_kinds_of_prompts(engine):
    """Every way of giving the same prompt gives the same text."""
    want = engine.generate([1, 2, 3], max_new_tokens=5)
    text = engine.tokenizer.decode([1, 2, 3])
    one = ["".join(text.split())]
    assert isinstance(one[0], str)
    for prompt in (torch.tensor([1, 2, 3]), (1, 2, 3)):
        assert engine.generate(prompt, max_new_tokens=5).token_ids == want.token_ids
    many = [
        [[1, 2, 3]],
        torch.tensor([[1, 2, 3]]),
        {"input_ids": torch.tensor([[0, 1, 2, 3]]), "attention_mask": torch.tensor([[0, 1, 1, 1]])},
        {"input_ids": [[1, 2, 3]], "attention_mask": [[1, 1, 1]]},
    ]
    for prompt in many:
        (out,) = engine.generate(prompt, max_new_tokens=5)
        assert out.token_ids == want.token_ids and out.num_prompt_tokens == 3
    word = engine.tokenizer.decode([1])
    by_text = engine.generate(word, max_new_tokens=5)
    assert by_text.token_ids == engine.generate([1], max_new_tokens=5).token_ids
    chat = engine.generate([{"role": "user", "content": word}], max_new_tokens=5)
    assert chat.token_ids == by_text.token_ids
    assert len(engine.generate([word, [1, 2]], max_new_tokens=2)) == 2


def test_room_for_new_tokens(engine, caplog):
    """A prompt past the limit raises before any work; one near it is cut short, with a warning."""
    limit = engine.target.max_positions
    with pytest.raises(PromptTooLong, match=f"{limit} positions"):
        engine.generate([1] * (limit + 1))
    with pytest.raises(PromptTooLong, match="prompt 1 "):
        engine.generate([[1], [1] * (limit + 3)])
    with caplog.at_level("WARNING", logger="specdec"):
        out = engine.generate([1] * (limit - 3), max_new_tokens=10)
    assert len(out.token_ids) == 4 and out.finish_reason == "length"
    assert "4 of 10 new tokens fit" in caplog.text


def test_generation_config(engine):
    """A transformers config gives its settings; what is named beside it wins."""
    config = GenerationConfig(do_sample=True, temperature=0.5, max_new_tokens=7, top_p=0.9)
    params = SamplingParams.from_generation_config(config)
    assert (params.samples, params.temperature, params.top_k, params.top_p) == (True, 0.5, 50, 0.9)
    assert not SamplingParams.from_generation_config(config, temperature=0.0).samples
    out = engine.generate([1, 2], generation_config=config, max_new_tokens=4, seed=1)
    assert len(out.token_ids) == 4 and out.seed == 1
    assert not SamplingParams.from_generation_config(GenerationConfig(temperature=0.5)).samples


def test_spellings_agree(engine):
    kwargs = {"temperature": 1.0, "seed": 1}
    want = engine.generate([1, 2], max_new_tokens=6, num_draft_tokens=3, **kwargs).token_ids
    params = SamplingParams(max_new_tokens=6, **kwargs)
    assert engine.generate([1, 2], sampling_params=params).token_ids == want
    for name in ("num_speculative_tokens", "num_assistant_tokens", "prompt_lookup_num_tokens"):
        assert engine.generate([1, 2], max_tokens=6, **{name: 3}, **kwargs).token_ids == want


def test_one_log_line_says_what_runs(engine, caplog):
    with caplog.at_level("INFO", logger="specdec"):
        engine.generate([1, 2], max_new_tokens=2, temperature=1.0, seed=9)
    (line,) = [record.getMessage() for record in caplog.records]
    for part in ("LlamaForCausalLM", "float64", "cpu", "auto", "coupled", "seed 9"):
        assert part in line


def test_vocabularies_are_compared_by_their_tables(engine):
    from specdec.sampling.vocabulary import check_same_ids, fit

    ours, theirs = engine.tokenizer, hostile.tokenizer(models.VOCAB)
    check_same_ids(ours, theirs, 40, 48, "padded")  # more ids than tokens: padding
    check_same_ids(None, None, 40, 40, "bare")
    with pytest.raises(VocabularyMismatch, match="cannot be compared"):
        check_same_ids(None, theirs, 40, 30, "small")
    with pytest.raises(VocabularyMismatch, match="2 are missing"):
        check_same_ids(ours, hostile.tokenizer(38), 40, 40, "short")

    class Shifted:
        def get_vocab(self):
            return {token: (i + 1) % 40 for token, i in ours.get_vocab().items()}

    with pytest.raises(VocabularyMismatch, match="40 tokens have another id"):
        check_same_ids(ours, Shifted(), 40, 40, "shifted")
    logits = torch.zeros(2, 5)
    assert fit(logits, 3).shape == (2, 3)
    assert torch.isneginf(fit(logits, 7)[:, 5:]).all()


def test_draft_model_with_other_ids_is_refused(engine):
    with pytest.raises(VocabularyMismatch):
        engine.generate([1], draft_model=models.build("llama", vocab_size=30))


class Bytes:
    """A byte-level tokenizer: one token a byte, so that characters span tokens."""

    def decode(self, tokens, **_):
        return bytes(tokens).decode("utf-8", errors="replace")


@pytest.mark.parametrize("text", ["plain", "naïve — 日本語 🎉🎉", "é", "e\u0301 ﷽"])
def test_detokenizer_joins_bytes(text):
    detokenizer = Detokenizer(Bytes(), list("prompt é".encode()))
    pieces = [detokenizer.push(byte) for byte in text.encode()]
    assert "".join(pieces) == detokenizer.text == text
    assert "\ufffd" not in "".join(pieces)


def test_detokenizer_flushes_what_is_broken():
    detokenizer = Detokenizer(Bytes(), [65])
    for byte in "aé".encode()[:-1]:
        detokenizer.push(byte)
    assert detokenizer.text == "a"
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""
