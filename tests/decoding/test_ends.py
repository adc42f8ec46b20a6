"""Where texts end: end and stop tokens, stop strings, least lengths; with drafts and without."""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from specdec import Engine
from specdec.decoding.detokenizer import Detokenizer
from specdec.decoding.stop_strings import StopStrings
from specdec.errors import InvalidArgument

from helpers import hostile, models
from helpers.contract import outcome

EOS, OTHER = 9, 11
WORDS = [*"abcdefghijklmnopqrst", "hello", "user", " ", "ab"]
SPECIAL = ["<s>", "<turn>", "<tool>"]
SHOWN = "<shown>"


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(tokenizer_models.WordLevel({w: i for i, w in enumerate(WORDS)}, "a"))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(word, normalized=False) for word in SPECIAL])
    backend.add_tokens([AddedToken(SHOWN, special=False, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)


ID = {word: i for i, word in enumerate([*WORDS, *SPECIAL, SHOWN])}


@pytest.fixture(scope="module")
def engine() -> Engine:
    made = Engine(models.build("llama"), tokenizer())
    made.model.generation_config.eos_token_id = [EOS]
    return made


class Script:
    """Makes a model say these tokens; the last of them again and again, where it is allowed."""

    stateless = True

    def __init__(self, *tokens: int, prompt: int = 2) -> None:
        self.tokens, self.prompt = tokens, prompt

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        at = min(ids.shape[1] - self.prompt, len(self.tokens) - 1)
        bonus = torch.zeros_like(scores)
        bonus[:, self.tokens[at]] = 1e9
        return scores + bonus  # what is forbidden stays so


RULES = [
    {}, {"temperature": 1.0, "seed": 1}, {"temperature": 1.0, "seed": 1, "acceptance": "rejection"},
]  # fmt: skip


def is_free(kwargs) -> bool:
    return any(name in kwargs for name in ("min_tokens", "min_new_tokens"))


def says(engine: Engine, *tokens: int, **kwargs):
    """The greedy result. Drafts, right and wrong, change nothing, under no rule; unless tokens are
    kept away, since rejection draws others instead from its own noise."""
    kwargs = {"max_new_tokens": 8, "logits_processor": [Script(*tokens)], **kwargs}
    script = [*tokens, *[tokens[-1]] * 20]
    for rule in reversed(RULES):
        plain = engine.generate([1, 2], drafter="none", **kwargs, **rule)
        for wrong_every in (0, 2):
            out = engine.generate(
                [1, 2], drafter=hostile.replay([script], wrong_every), **kwargs, **rule
            )
            same = outcome([out]) == outcome([plain])
            assert same or rule.get("acceptance") == "rejection" and is_free(kwargs)
    stream = engine.stream([1, 2], drafter=hostile.replay([script]), **kwargs)
    assert "".join(step.text for step in stream) == plain.text
    return plain


@pytest.mark.parametrize(
    ("kwargs", "length", "reason"),
    [
        ({}, 3, "stop"),
        ({"stop_token_ids": [OTHER]}, 2, "stop"),
        ({"stop_token_ids": OTHER}, 2, "stop"),
        ({"stop_token_ids": []}, 3, "stop"),
        ({"eos_token_id": OTHER}, 2, "stop"),
        ({"eos_token_id": []}, 8, "length"),
        ({"eos_token_id": 12}, 8, "length"),
        ({"eos_token_id": [12], "stop_token_ids": [EOS]}, 3, "stop"),
        ({"ignore_eos": True}, 8, "length"),
        ({"ignore_eos": False}, 3, "stop"),
        ({"ignore_eos": True, "stop_token_ids": [OTHER]}, 2, "stop"),
    ],
    ids=str,
)
def test_tokens_that_end_a_text(engine, kwargs, length, reason):
    out = says(engine, 3, OTHER, EOS, **kwargs)
    assert (len(out.token_ids), out.finish_reason) == (length, reason)


@pytest.mark.parametrize("name", ["min_tokens", "min_new_tokens"])
@pytest.mark.parametrize("least", [0, 1, 2, 5])
def test_no_end_token_before_the_least_length(engine, name, least):
    out = says(engine, EOS, **{name: least})
    assert len(out.token_ids) == least + 1 and out.token_ids.index(EOS) == least


def test_what_least_lengths_keep_away(engine):
    """Stop tokens and stop strings count as ends for vLLM's, and do not for transformers'."""
    assert len(says(engine, OTHER, stop_token_ids=[OTHER], min_tokens=3).token_ids) == 4
    assert len(says(engine, OTHER, stop_token_ids=[OTHER], min_new_tokens=3).token_ids) == 1
    assert len(says(engine, ID["c"], stop="cc", min_tokens=3).token_ids) == 4
    assert len(says(engine, ID["c"], stop="cc", min_new_tokens=3).token_ids) == 2
    early = says(engine, ID["c"], ID["d"], ID["e"], stop="cd", min_tokens=2)
    assert early.finish_reason == "length"  # it was complete too early, and does not count later
    across = says(engine, ID["c"], ID["d"], ID["e"], stop="cde", min_tokens=2)
    assert (across.token_ids, across.text) == ([ID["c"], ID["d"], ID["e"]], "")


def test_ends_of_a_config_that_no_token_is(engine, monkeypatch):
    """A model's own are none of the caller's: they end nothing, and keep nothing away."""
    monkeypatch.setattr(engine.model.generation_config, "eos_token_id", [EOS, 999])
    assert len(says(engine, EOS, min_new_tokens=2).token_ids) == 3


def test_min_new_tokens_is_transformers(engine):
    """Beside stock, with one processor: the same tokens."""
    for least in (0, 3, 5):
        kwargs = {"max_new_tokens": 8, "min_new_tokens": least}
        model = models.build("llama")
        model.generation_config.eos_token_id = EOS
        stock = model.generate(
            torch.tensor([[1, 2]]), do_sample=False, pad_token_id=0,
            logits_processor=[Script(EOS)], **kwargs,
        )  # fmt: skip
        assert says(engine, EOS, **kwargs).token_ids == stock[0, 2:].tolist()


def test_rows_end_by_themselves(engine):
    rows = engine.generate(
        [[1, 2], [1, 2, 3], [4]], max_new_tokens=6, stop_token_ids=[OTHER],
        logits_processor=[Script(5, 6, 7, OTHER, prompt=1)], drafter="none",
    )  # fmt: skip
    assert [len(row.token_ids) for row in rows] == [3, 2, 4]


@pytest.mark.parametrize(
    ("stop", "script", "count", "text"),
    [
        ("<turn>", ["hello", "<turn>", "hello"], 2, "hello"),
        ("<turn>user", ["hello", "<turn>", "user", "hello"], 3, "hello"),
        ("<turn>ab", ["hello", "<turn>", "a", "b"], 4, "hello"),
        ("lo<turn>", ["hello", "<turn>", "hello"], 2, "hel"),
        ("o<turn>us", ["hello", "<turn>", "user"], 3, "hell"),
        ("turn", ["hello", "<turn>", "hello"], 2, "hello"),
        ("n>u", ["hello", "<turn>", "user"], 3, "hello"),
        ("helloab", ["hello", "<turn>", "a", "b"], 4, ""),  # as it is shown
        ("<turn>b", ["hello", "<turn>", "a", "b", "q"], 8, None),
        (["zz", "<tool>", "b"], ["a", "<turn>", "<tool>", "b"], 3, "a"),
        ("<shown>", ["hello", "<shown>", "a"], 2, "hello"),
        ("hellouser", ["hello", "<shown>", "user", "q"], 8, None),
    ],
)
def test_stop_strings_of_special_tokens(engine, stop, script, count, text):
    out = says(engine, *(ID[word] for word in script), stop=stop)
    assert len(out.token_ids) == count
    if text is not None:
        assert (out.text, out.finish_reason) == (text, "stop")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"stop_token_ids": [40]}, "stop_token_ids holds 40"),
        ({"stop_token_ids": [-1]}, "stop_token_ids holds -1"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids.*'a'"),
        ({"eos_token_id": 40}, "eos_token_id holds 40, which is no token id from 0 to 39"),
        ({"eos_token_id": [2, -1]}, "eos_token_id holds -1"),
        ({"ignore_eos": 3}, "ignore_eos=3"),
        ({"ignore_eos": True, "eos_token_id": 3}, "contradict"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens exceeds"),
        ({"min_tokens": -1}, "min_tokens=-1"),
    ],
)
def test_ends_that_are_none(engine, kwargs, message):
    with pytest.raises(InvalidArgument, match=message):
        engine.generate([1], **kwargs)


def test_the_beginning_of_a_stop_string_is_held_back():
    shown = Detokenizer(tokenizer(), [])
    strings = StopStrings(["<turn>ab", "lol"], tokenizer(), [], shown)
    safe = []
    for word in ("hello", "<turn>", "a", "q"):
        strings.push(ID[word])
        assert strings.found() is None
        safe.append(strings.num_safe())
    assert safe == [3, 3, 5, 7]  # "lo" may begin "lol"; then "<turn>" and "<turn>a" the other
