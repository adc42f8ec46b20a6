"""Prompts: from the command line, a file, a pipe, or our own."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from specdec.decoding.prompt_files import decode, read_entries, read_text
from specdec.errors import InvalidArgument

# An edit: most of the answer stands in the prompt, which is where n-gram drafts shine.
DEMO = """Repeat this Python code exactly, but rename the class to Meter:

```python
class Counter:
    def __init__(self, start):
        self.value = start

    def increase(self, step):
        self.value += step
        return self.value

    def decrease(self, step):
        self.value -= step
        return self.value

    def reset(self):
        self.value = 0
        return self.value
```"""

# For `check` without a file: a list, code, prose and a copy, so that drafts hit and miss.
SHORT = [
    "The first ten prime numbers are 2, 3, 5, 7,",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Once upon a time, in a village by the sea, there lived",
    "the cat sat on the mat, the cat sat on the mat, the cat sat on",
]


def read_prompt(argument: str | None, file: Path | None) -> str | None:
    """The prompt of `generate`; None if there is none, as at a terminal with nothing typed."""
    if argument is not None and file is not None:
        raise InvalidArgument("a prompt and --prompt-file were both given: give one of them")
    if argument is not None:
        text = argument
    elif file is not None:
        text = read_text(file)
    elif _stdin_is_idle():
        return None
    else:
        text = _piped()
    if not text.strip():
        raise InvalidArgument("the prompt is empty: give some text")
    return text


def read_prompts(file: Path, limit: int | None = None) -> list[str]:
    """The prompts of a .jsonl or .json file (fields prompt, text or turns) or of a text's lines."""
    prompts = [entry.prompt for entry in read_entries(file)][:limit]
    if not prompts:
        raise InvalidArgument(f"{file} holds no prompts")
    return prompts


def as_chat(prompt: str) -> list[dict[str, str]]:
    """The prompt as what a user says to a chat model."""
    return [{"role": "user", "content": prompt}]


def _piped() -> str:
    """All of standard input, whatever encoding the terminal may have."""
    piped = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read() if piped is None else decode(piped.read(), "standard input")


def _stdin_is_idle() -> bool:
    """Whether nothing can be piped in: stdin is a terminal, /dev/null or closed."""
    try:
        return stat.S_ISCHR(os.fstat(sys.stdin.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        return sys.stdin is None or sys.stdin.closed
