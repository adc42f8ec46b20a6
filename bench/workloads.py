"""Workloads: prompts made from text that every CPython installation holds, no hub needed."""

from __future__ import annotations

import fnmatch
import inspect
from dataclasses import dataclass
from pydoc_data.topics import topics


@dataclass(frozen=True)
class Workload:
    """A chat prompt and what it stands for; `max_new_tokens` is how much of an answer is timed."""

    name: str
    summary: str
    prompt: str
    max_new_tokens: int = 128

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]


def _prose(topic: str, characters: int) -> str:
    """The beginning of a chapter of the language reference, up to the end of a sentence."""
    text = " ".join(topics[topic].split())[:characters]
    return text[: text.rindex(". ") + 1]


def manual() -> str:
    """The chapters of the language reference, about 100,000 tokens."""
    return "\n\n".join(topics.values())


def quick() -> list[Workload]:
    """Copying, editing, summing up and chatting: from all of the answer in the prompt to none."""
    code = inspect.getsource(fnmatch)
    return [
        Workload(
            "copy",
            "repeat a text",
            "Repeat the following text exactly, word for word.\n\n" + _prose("exceptions", 1800),
        ),
        Workload(
            "edit",
            "change a name in code",
            "Rewrite the following Python code with the parameter `pat` renamed to `pattern`. "
            f"Give the whole code.\n\n```python\n{code[code.index('def fnmatch(') :][:2400]}\n```",
        ),
        Workload(
            "summary",
            "sum up a chapter",
            "Summarize the following text in a few sentences.\n\n" + _prose("assignment", 6000),
        ),
        Workload("chat", "answer a question", "What are good ways to deal with stress at work?"),
    ]
