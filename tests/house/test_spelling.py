"""One spelling: a setting has the same name in Python, on the command line and in the pages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from inspect import signature
from typing import Any

import pytest
import typer

from specdec import Engine, hf
from specdec.cli.app import app
from specdec.decoding.call_keywords import CallKeywords

from helpers import pages

KEYWORDS = {*CallKeywords.__annotations__, *signature(Engine.from_pretrained).parameters}
# Options whose name is another word than their parameter's, as is usual on a command line.
SHORT = {"--json": "as_json", "--all": "everything", "--stop": "stop_strings"}
REPEATED = {"--image": "images", "--images": "numbers"}  # given once for each, and counts of them
# What only a command line has: of `specdec generate`.
OF_GENERATE = {
    "as_json",
    "chat",
    "compare",
    "cpu_memory",
    "explain",
    "gpu_memory",
    "images",
    "prompt",
    "prompt_file",
    "video",
}
# Keywords in the pages that belong to others, or to parts that `extending` shows.
OTHERS = {
    "custom_generate", "end", "fullgraph", "heads", "link", "lossless", "padding", "positions",
    "residue", "spans", "together", "use_cache", "past_key_values", "verifier",
}  # fmt: skip
# Options in the pages of other programs.
FOREIGN = {"--help", "--no-deps", "--table", "--durations"}
_KEYWORD = re.compile(r"(?<![\w.-])([a-z][a-z_0-9]*)=(?!=)")
_FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(app)
    yield " ".join(path), command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


OPTIONS = [(path, param) for path, command in commands() for param in command.params]
FLAGS = {flag for _, param in OPTIONS for flag in (*param.opts, *param.secondary_opts)}


@pytest.mark.fast
def test_options_are_their_parameters_with_hyphens() -> None:
    for path, param in OPTIONS:
        for flag in (*param.opts, *param.secondary_opts):
            assert re.fullmatch(r"-\w|--[a-z0-9]+(-[a-z0-9]+)*|[a-z_]+", flag), (path, flag)
        longs = [flag for flag in param.opts if flag.startswith("--")]
        if longs:
            said = longs[0].removeprefix("--").replace("-", "_")
            assert param.name in (said, SHORT.get(longs[0]), REPEATED.get(longs[0])), (path, longs)


@pytest.mark.fast
def test_options_of_generate_are_keywords_of_the_engine() -> None:
    names = {param.name for path, param in OPTIONS if path == "generate"}
    assert names - KEYWORDS == OF_GENERATE, sorted(names - KEYWORDS)


@pytest.mark.fast
def test_the_adapter_has_no_words_of_its_own() -> None:
    own = hf.OURS - set(CallKeywords.__annotations__)
    assert own <= {"threads", "tokenizer", "assistant_tokenizer"}, own


def _named(page: Any) -> set[str]:
    """Keywords in the snippets of a page and in the code within its sentences."""
    trees = [ast.parse(block) for block in pages.blocks(page, "python")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = {keyword.arg for call in calls for keyword in call.keywords if keyword.arg}
    for code in pages.inline(page):
        found |= set(_KEYWORD.findall(code))
    return found


USED = [page for page in pages.PAGES if "decisions" not in pages.name(page)]


@pytest.mark.fast
@pytest.mark.parametrize("page", USED, ids=map(pages.name, USED))
def test_keywords_and_options_of_a_page_exist(page: Any) -> None:
    unknown = _named(page) - KEYWORDS - OTHERS
    assert not unknown, unknown
    flags = {flag for code in pages.inline(page) for flag in _FLAG.findall(code)}
    assert flags <= FLAGS | FOREIGN, flags - FLAGS - FOREIGN


@pytest.mark.fast
def test_a_word_that_is_nobodys_would_be_seen() -> None:
    assert not {"max_tokns", "num-draft-tokens"} & (KEYWORDS | OTHERS)
    assert "--num_draft_tokens" not in FLAGS and "--num-draft-tokens" in FLAGS
