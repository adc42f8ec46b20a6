"""Workloads: prompts made from text that every CPython installation holds, no hub needed."""

from __future__ import annotations

import argparse
import fnmatch
import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

from specdec.decoding.prompt_images import with_images
from specdec.engine import Engine
from specdec.sampling.prompt import Prompt

# For what does not depend on the prompt; the mask says that token 0 is no padding.
ANY_PROMPT = {"input_ids": [0], "attention_mask": [1]}


@dataclass(frozen=True)
class Workload:
    """A prompt and what it stands for; `max_new_tokens` is how much of an answer is timed.

    chat: put into the model's chat template if it has one. context: take only so many tokens of
    the prompt. reads: what counts is how fast the prompt is read, not how fast text is written.
    answers: what a right answer holds, where that is known.
    conversation: messages with images, in place of the prompt.
    """

    name: str
    summary: str
    prompt: str
    max_new_tokens: int = 96
    chat: bool = True
    context: int | None = None
    reads: bool = False
    answers: tuple[str, ...] = ()
    conversation: tuple[dict[str, Any], ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]

    def asked(self, engine: Engine) -> list[int] | Prompt:
        """What the engine's model is to be given; raises InvalidArgument if it takes no images."""
        if not self.conversation:
            return self.tokens(engine.tokenizer)
        read: Prompt = with_images(list(self.conversation), engine)
        return read

    def tokens(self, tokenizer: Any) -> list[int]:
        """Its token ids for a model; fewer than `context` if the text is shorter."""
        if self.chat and getattr(tokenizer, "chat_template", None):
            text = tokenizer.apply_chat_template(
                self.messages, add_generation_prompt=True, tokenize=False
            )
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(tokenizer(self.prompt)["input_ids"])[: self.context]


def prose(topic: str, characters: int) -> str:
    """The beginning of a chapter of the language reference, up to the end of a sentence."""
    text = " ".join(topics[topic].split())[:characters]
    return text[: text.rindex(". ") + 1]


def manual() -> str:
    """The chapters of the language reference, about 100,000 tokens."""
    return "\n\n".join(topics.values())


def source() -> str:
    """Source code, about 25,000 tokens: argparse of the standard library."""
    return inspect.getsource(argparse)


def _function() -> str:
    code = inspect.getsource(fnmatch)
    return code[code.index("def fnmatch(") :][:2400]


def quick() -> list[Workload]:
    """Everyday tasks, from all of the answer in the prompt (copy) to none of it (chat)."""
    code = _function()
    return [
        Workload(
            "copy",
            "repeat a text",
            "Repeat the following text exactly, word for word.\n\n" + prose("exceptions", 1800),
            128,
        ),
        Workload(
            "edit",
            "change a name in code",
            "Rewrite the following Python code with the parameter `pat` renamed to `pattern`. "
            f"Give the whole code.\n\n```python\n{code}\n```",
            128,
        ),
        Workload(
            "change",
            "apply a change to code",
            "Apply this change to the code and give the whole new code.\n\nChange: add the "
            "argument `flags=0` to every function.\n\n"
            f"```python\n{inspect.getsource(textwrap.TextWrapper._split_chunks)}\n"
            f"{inspect.getsource(textwrap.TextWrapper.wrap)}\n"
            f"{inspect.getsource(textwrap.indent)}\n```",
        ),
        Workload(
            "summary",
            "sum up a chapter",
            "Summarize the following text in a few sentences.\n\n" + prose("assignment", 6000),
        ),
        Workload(
            "question",
            "answer from a document",
            f"{prose('with', 2500)}\n\nAccording to this text, in which order are the steps of a "
            "`with` statement carried out? Quote the relevant sentences.",
        ),
        Workload("chat", "answer a question", "What are good ways to deal with stress at work?"),
        Workload(
            "completion", "go on with code", source()[3000:7000], chat=False, max_new_tokens=96
        ),
        Workload(
            "translation",
            "translate a text",
            "Translate the following text into French.\n\n" + prose("truth", 900),
        ),
    ]


def depth(max_positions: int, contexts: Sequence[int] | None = None) -> list[Workload]:
    """llama-bench's shape: pp512, tg128, and tg32 at growing depths, on the manual's text."""
    if contexts is None:
        doubling = [512 * 2**i for i in range(12)]
        contexts = [d for d in doubling if d + 40 < max_positions]
        if max_positions - 700 > 1.5 * (contexts or [0])[-1]:
            contexts.append((max_positions - 600) // 100 * 100)
    text = manual()
    rows = [
        Workload("pp512", "read 512 tokens", text, 1, False, 512, reads=True),
        Workload("tg128", "write 128 tokens", text, 128, False, 8),
    ]
    return rows + [
        Workload(f"tg32 @ d{d}", f"write 32 tokens after {d}", text, 32, False, d) for d in contexts
    ]


def long(texts: dict[str, str], contexts: Sequence[int]) -> list[Workload]:
    """Go on with texts after different lengths of context."""
    return [
        Workload(f"{name} @ {n}", f"go on with {name}", text, 96, False, n)
        for n in contexts
        for name, text in texts.items()
    ]
