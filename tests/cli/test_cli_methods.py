"""`specdec methods` lists every KV method as the registry and its dataclass have it."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from specdec import Engine, registry

from helpers.command import run

ARXIV = re.compile(r"\d{4}\.\d{5}")


@pytest.fixture(scope="module")
def listed() -> dict[str, dict[str, Any]]:
    return {facts["name"]: facts for facts in json.loads(run("methods", "--json").stdout)}


def test_every_view_is_listed_and_drafters_that_keep_less(listed: dict[str, Any]) -> None:
    drafters = {"longspec", "specvlm", "block", "triforce"}
    assert set(listed) == set(registry.VIEWS) - {"full"} | drafters
    assert {name for name, facts in listed.items() if not facts["view"]} == drafters
    assert all(facts["drafter"] for facts in listed.values())


def test_each_says_what_it_is(listed: dict[str, Any]) -> None:
    for name, facts in listed.items():
        assert facts["keeps"] and facts["family"] and facts["summary"], name
        assert ARXIV.search(facts["paper"]) or facts["paper"] in ("our own", "none: an upper bound")
    assert listed["quest"]["paper"] == "2406.10774" and listed["kivi"]["family"] == "codec"


def test_options_are_those_of_the_class_and_keywords_of_a_call(listed: dict[str, Any]) -> None:
    keywords = inspect.signature(Engine.generate).parameters
    for name, facts in listed.items():
        table = registry.VIEWS if facts["view"] else registry.DRAFTERS
        kind = table[name].load()
        assert set(facts["options"]) == set(kind.options())
        made = table[name].method()
        for option, told in facts["options"].items():
            assert option in keywords and told["help"] and told["values"]
            if told["default"] is not None:
                value = getattr(made, option)
                shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                assert told["default"] == (shown or "none")


def test_the_table_has_all_and_a_family_its_own(listed: dict[str, Any]) -> None:
    shown = run("methods", COLUMNS="250").stdout
    for name, facts in listed.items():
        (line,) = [x for x in shown.splitlines() if x.startswith(f"   {name} ")]
        assert facts["paper"] in line and facts["keeps"] in line
    assert "budget, sink" in shown.splitlines()[-1]
    codecs = json.loads(run("methods", "--family", "codec", "--json").stdout)
    assert [facts["name"] for facts in codecs] == [
        name for name, facts in listed.items() if facts["family"] == "codec"
    ]
    wrong = run("methods", "--family", "codecs")
    assert wrong.exit_code == 2 and "unknown family 'codecs': did you mean 'codec'" in wrong.stderr


def test_it_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from specdec.cli.app import app; app(['methods'], standalone_mode=False); "
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL
    )
