"""Prompts as people have them: arrays, numbers of other libraries, padding, and what is no text."""

from __future__ import annotations

from collections import UserList, deque

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from specdec import Engine, SamplingParams
from specdec.decoding.options import DraftOptions
from specdec.decoding.prompt import parse_prompts
from specdec.errors import InvalidArgument
from specdec.loading.gguf.load import read_gguf
from specdec.plain import plain

from helpers import hostile, models
from helpers.ids import short

pytestmark = pytest.mark.fast

IDS = [3, 1, 4]
TWO = [[3, 1, 4], [1, 5, 9]]


class Tokenizer:
    """One token a letter, from a to z; `pad`, `bos` and `eos` as a test sets them."""

    def __init__(self, pad=None, bos=None, eos=None):
        self.pad_token_id, self.bos_token_id, self.eos_token_id = pad, bos, eos

    def __call__(self, text, **_):
        return {"input_ids": [ord(letter) - 97 for letter in text]}


def read(prompt, tokenizer=None):
    return parse_prompts(prompt, tokenizer, models.VOCAB)


@pytest.mark.parametrize(
    "prompt",
    [
        IDS, tuple(IDS), UserList(IDS), deque(IDS), np.array(IDS), np.array(IDS, dtype=np.uint8),
        np.array(IDS, dtype=np.uint64), torch.tensor(IDS), torch.tensor(IDS, dtype=torch.int16),
        [np.int64(i) for i in IDS], [torch.tensor(i) for i in IDS],
        [3, np.int8(1), torch.tensor(4)],
        [np.array(i) for i in IDS], {"input_ids": np.array(IDS)}, {"input_ids": IDS},
        BatchEncoding({"input_ids": IDS, "attention_mask": [1, 1, 1]}),
        {"input_ids": torch.tensor(IDS), "token_type_ids": torch.zeros(3)},
    ],
    ids=lambda prompt: type(prompt).__name__,
)  # fmt: skip
def test_one_prompt(prompt):
    assert read(prompt) == ([IDS], False)
    assert all(type(token) is int for token in read(prompt)[0][0])


def test_ranges_are_prompts():
    assert read(range(2, 6)) == ([[2, 3, 4, 5]], False)
    assert read([range(2), (7, 8)]) == ([[0, 1], [7, 8]], True)


@pytest.mark.parametrize(
    "prompts",
    [
        TWO, tuple(map(tuple, TWO)), np.array(TWO), torch.tensor(TWO), [np.array(x) for x in TWO],
        [torch.tensor(TWO[0]), np.array(TWO[1])], {"input_ids": np.array(TWO)},
        [torch.tensor(TWO[:1]), np.array(TWO[1:])], {"input_ids": TWO},
        [{"input_ids": TWO[0]}, {"input_ids": torch.tensor(TWO[1:])}],
        {"input_ids": TWO, "token_type_ids": [[0, 0, 0], [0, 0, 0]], "attention_mask": None},
    ],
    ids=lambda prompt: type(prompt).__name__,
)  # fmt: skip
def test_several_prompts(prompts):
    assert read(prompts) == (TWO, True)


@pytest.mark.parametrize("wrap", [list, np.array, torch.tensor])
def test_masks_cut_padding_on_either_side(wrap):
    ids = [[0, 0, 3, 1], [1, 5, 9, 2], [7, 0, 0, 0]]
    mask = [[0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]
    want = ([[3, 1], [1, 5, 9, 2], [7]], True)
    assert read({"input_ids": wrap(ids), "attention_mask": wrap(mask)}) == want
    assert read({"input_ids": wrap(ids), "attention_mask": np.array(mask) == 1}) == want
    assert read({"input_ids": wrap(ids), "attention_mask": torch.tensor(mask).float()}) == want
    one = {"input_ids": wrap(ids[0]), "attention_mask": wrap(mask[0])}
    assert read(one) == ([[3, 1]], False)
    assert read([one, [5]]) == ([[3, 1], [5]], True)


BAD = [
    (b"abc", "is a bytes"), (bytearray(b"abc"), "is a bytearray"),
    (memoryview(b"abc"), "memoryview"),
    ([b"abc"], "prompt 0 is a bytes"), ([IDS, b"abc"], "prompt 1 is a bytes"), ({1, 2}, "is a set"),
    (iter(IDS), "iterator"), ((i for i in IDS), "generator"), (None, "NoneType"), (5, "is a int"),
    (np.int64(5), "int64"), (np.array(5), "0 dimensions"),
    (np.zeros((1, 1, 1), int), "3 dimensions"), ([3, "a"], "holds 'a'"),
    ([1.0, 2.0], "holds 1.0"), (np.array([1.0, 2.0]), "holds 1.0"),
    (torch.tensor([1.5]), "holds 1.5"), (torch.tensor([1e-9]), "holds 9.99"),
    (np.array([True, False]), "holds True"), ([np.bool_(True)], "holds True"),
    ([3, None], "holds None"), (np.array([3, -1]), "holds -1"), ([IDS, [40]], "prompt 1 holds 40"),
    (np.array([], dtype=int), "no tokens"), (np.zeros((0, 3), int), "empty"),
    ([[], IDS], "no tokens"),
    (np.array(["a", "b"]), "holds 'a'"), ([[[3]]], r"holds \[3\]"), ([IDS, 4], "prompt 1 is a int"),
    ([torch.tensor(TWO)], "prompt 0 holds 2 prompts"), ({}, "without input_ids"),
    ({"role": "user", "content": "a"}, "give a list of messages"), ({"prompt": "a"}, "of prompt"),
    ({"input_ids": "abc"}, "input_ids is a str"), ({"input_ids": b"abc"}, "input_ids is a bytes"),
    ({"input_ids": IDS, "pixel_values": 1}, "pixel_values"),
    ({"input_ids": [IDS, "a"]}, "no tokenizer"),
    ({"input_ids": IDS, "position_ids": IDS}, "position_ids"),
    ({"input_ids": IDS, "token_type_ids": [0, 1, 0]}, "token_type_ids"),
    ({"input_ids": IDS, "attention_mask": [1, 1]}, "length"),
    ({"input_ids": TWO, "attention_mask": [[1, 1, 1]]}, "shape"),
    ({"input_ids": TWO, "attention_mask": 1}, "shape"),
    ({"input_ids": IDS, "attention_mask": [1, 0, 1]}, "between others"),
    ({"input_ids": IDS, "attention_mask": [1, 2, 1]}, "other values"),
    ({"input_ids": IDS, "attention_mask": [0, 0, 0]}, "keeps no token"),
    ({"input_ids": np.array([TWO]), "attention_mask": np.ones((1, 2, 3))}, "3 dimensions"),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "message"), BAD, ids=short)
def test_what_is_no_prompt(prompt, message):
    with pytest.raises(InvalidArgument, match=message):
        read(prompt)


@pytest.mark.parametrize("text", ["\udcff abc", "abc\ud800", ["ab", "\udc80"]])
def test_lone_surrogates_are_no_text(text):
    with pytest.raises(InvalidArgument, match="lone surrogate"):
        read(text, Tokenizer())


PADDED = [
    np.array([[0, 0, 3], [1, 5, 9]]), torch.tensor([[3, 0, 0], [1, 5, 9]]), [[0, 0, 3], [1, 5, 9]],
    {"input_ids": [[0, 0, 3], [1, 5, 9]]}, torch.tensor([[0, 0, 3]]), [0, 0, 3],
    np.array([3, 0, 0]),
]  # fmt: skip


@pytest.mark.parametrize("prompt", PADDED, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("special", [{}, {"eos": 0}, {"bos": 0}])
def test_apparent_padding_needs_a_mask(prompt, special):
    with pytest.raises(InvalidArgument, match=r"with padding \(token 0, 2 times\)"):
        read(prompt, Tokenizer(pad=0, **special))
    ids = prompt["input_ids"] if isinstance(prompt, dict) else prompt
    mask = torch.ones(len(ids)) if np.ndim(ids) == 1 else torch.ones(len(ids), len(ids[0]))
    kept, _ = read({"input_ids": ids, "attention_mask": mask}, Tokenizer(pad=0, **special))
    assert kept == np.atleast_2d(plain(ids)).tolist()  # with a mask they are text
    assert read(prompt, Tokenizer())[0] == kept  # and without a padding token


def test_one_padding_token_that_may_be_text():
    """An end token behind a prompt is its own, unless its row is the shorter one of an array."""
    ends, both = Tokenizer(pad=0, eos=0), [[3, 1, 0], [1, 5, 0]]
    for prompt in (np.array(both), [3, 1, 0], [0, 3], [[3, 1, 0], [1, 5, 9]]):
        assert read(prompt, ends)
    with pytest.raises(InvalidArgument, match="prompt 0 ends with padding"):
        read(np.array([[3, 1, 0], [1, 5, 9]]), ends)
    with pytest.raises(InvalidArgument, match="prompt 1 begins with padding"):
        read(torch.tensor([[3, 1, 2], [0, 5, 9]]), Tokenizer(pad=0))
    assert read(["aab", "b"], Tokenizer(pad=0)) == ([[0, 0, 1], [1]], True)  # text is no padding


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


def test_what_a_tokenizer_returns_as_keywords(engine):
    want = engine.generate(IDS, max_new_tokens=4).token_ids
    ids, mask = torch.tensor([[0, *IDS]]), torch.tensor([[0, 1, 1, 1]])
    for keywords in (
        {"input_ids": ids, "attention_mask": mask},
        {"prompt": ids, "attention_mask": mask},
        {"input_ids": [IDS]},
        {"input_ids": np.array([IDS]), "attention_mask": None, "token_type_ids": np.zeros((1, 3))},
    ):
        (out,) = engine.generate(max_new_tokens=4, **keywords)
        assert out.token_ids == want
    assert engine.generate(input_ids=IDS, max_new_tokens=4).token_ids == want
    assert list(engine.stream(input_ids=IDS, max_new_tokens=4))[0].row == 0
    word = engine.tokenizer.decode([3])
    by_text = engine.generate(word, max_new_tokens=4).token_ids
    assert engine.generate(**engine.tokenizer(word), max_new_tokens=4).token_ids == by_text
    for wrong, message in (
        ({}, "there is no prompt"),
        ({"prompt": IDS, "input_ids": IDS}, "both given"),
        ({"prompt": word, "attention_mask": [1]}, "input_ids is a str"),
        ({"attention_mask": [1]}, "without input_ids"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            engine.generate(**wrong)


def test_numbers_of_other_libraries(engine):
    """NumPy's and PyTorch's numbers say the same as Python's, in every setting."""
    ours = {"max_new_tokens": 6, "do_sample": True, "temperature": 0.5, "top_k": 7, "seed": 3,
            "eos_token_id": [5, 6], "bad_words_ids": [[1, 2]], "suppress_tokens": [9],
            "logit_bias": {3: 1.5}, "num_draft_tokens": 2}  # fmt: skip
    numpy = {"max_new_tokens": np.int64(6), "do_sample": np.bool_(True), "top_k": np.uint8(7),
             "temperature": np.float32(0.5), "seed": np.uint64(3), "suppress_tokens": np.array([9]),
             "bad_words_ids": [np.array([1, 2])], "eos_token_id": np.array([5, 6]),
             "logit_bias": {np.int64(3): np.float64(1.5)},
             "num_draft_tokens": np.int8(2)}  # fmt: skip
    tensors = {name: value if isinstance(value, dict) else torch.tensor(value)
               for name, value in ours.items()}  # fmt: skip
    want = engine.generate(IDS, drafter="ngram", **ours)
    for settings in (numpy, tensors):
        out = engine.generate(np.array(IDS), drafter="ngram", **settings)
        assert (out.token_ids, out.seed) == (want.token_ids, 3)
        assert type(out.seed) is int
    assert SamplingParams(eos_token_id=np.int64(2)) == SamplingParams(eos_token_id=2)
    assert DraftOptions(anchors=np.array([2, 10])).anchors == (2, 10)
    for wrong in ({"max_new_tokens": np.float64(6)}, {"max_new_tokens": np.bool_(True)},
                  {"do_sample": "yes"}, {"seed": np.array([1, 2])}, {"top_k": 3.0}):  # fmt: skip
        with pytest.raises(InvalidArgument, match=next(iter(wrong))):
            engine.generate(IDS, **wrong)


def test_what_is_plain_stays_the_same_object():
    for value in ([1, [2]], {"a": (1, "b")}, [object()], "text", {1: None}):
        assert plain(value) is value
    assert plain((np.int64(1), [np.float64(0.5)])) == (1, [0.5])


@pytest.mark.weights
def test_a_batch_of_the_demo_tokenizer():
    """Its padding token is its end token: padding is told apart all the same."""
    from specdec.loading.demo import demo_gguf

    tokenizer = read_gguf(demo_gguf()).tokenizer
    texts = ["Hello, how are you today?", "Hi"]
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        want = [tokenizer(text)["input_ids"] for text in texts]
        assert parse_prompts(batch, tokenizer, 49152)[0] == want
        with pytest.raises(InvalidArgument, match="padding"):
            parse_prompts(batch["input_ids"], tokenizer, 49152)


@pytest.mark.parametrize("inside", ["alone", "input_ids"])
def test_tensors_that_are_not_dense_are_refused(inside: str) -> None:
    jagged = torch.nested.nested_tensor([torch.tensor(IDS), torch.tensor([5])], layout=torch.jagged)
    for prompt in (torch.tensor(IDS).to_sparse(), torch.tensor(IDS, device="meta"), jagged):
        with pytest.raises(InvalidArgument, match="is a tensor of kind"):
            read(prompt if inside == "alone" else {"input_ids": prompt})
