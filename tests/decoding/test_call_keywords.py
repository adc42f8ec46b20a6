"""The keywords that editors and type checkers are shown are all there are, and no others."""

from __future__ import annotations

import inspect

import pytest

from specdec import Engine, SamplingParams, hf, registry
from specdec.decoding import keywords, options, prompt
from specdec.decoding.call_keywords import (
    CallKeywords,
    MethodKeywords,
    SamplingKeywords,
    _written,
)
from specdec.errors import InvalidArgument
from specdec.sampling import params
from specdec.vision.inputs import NAMES

from helpers import models


def test_every_option_and_setting_has_its_line() -> None:
    """A name that is new in a method or in SamplingParams is one in call_keywords.py, too."""
    spelled = {**{name: name for name in registry.holders()}, **options.SYNONYMS}
    hints = {name: _hint(option) for name, option in spelled.items()}
    shown = {name: _written(hint) for name, hint in MethodKeywords.__annotations__.items()}
    lines = "\n".join(f"    {name}: {hint}" for name, hint in hints.items())
    assert shown == hints, f"the fields of MethodKeywords shall be:\n{lines}"
    methods = set(spelled)
    assert set(SamplingKeywords.__annotations__) == params.NAMES | params.SYNONYMS.keys()
    own = set(keywords._OWN) - {"sampling_params"} | {*prompt._ENCODED, *NAMES}
    assert set(CallKeywords.__annotations__) == own | methods | set(
        SamplingKeywords.__annotations__
    )


def _hint(name: str) -> str:
    """The type of an option, as it is annotated; None leaves it to the method."""
    hints = {one.kind.hint for one in registry.holders()[name].values()}
    assert len(hints) == 1, (name, hints)
    hint = hints.pop()
    return hint if hint == "Any" else f"{hint} | None"


@pytest.mark.parametrize("function", [Engine.generate, Engine.stream], ids=["generate", "stream"])
def test_a_signature_lists_them_with_their_defaults(function: object) -> None:
    shown = inspect.signature(function).parameters  # type: ignore[arg-type]
    assert list(shown)[:3] == ["self", "prompt", "sampling_params"]
    assert set(shown) - {"self", "prompt", "sampling_params"} == set(CallKeywords.__annotations__)
    assert all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in shown.values())
    assert (shown["drafter"].default, shown["max_ngram"].default) == ("auto", 32)
    assert shown["sink"].default is None  # each method has its own
    assert shown["num_draft_tokens"].annotation == "int | None"


def test_the_defaults_that_are_shown_may_be_given() -> None:
    """All sampling settings at once; an option of a method is refused where nobody has it."""
    engine = Engine(models.build("llama"))
    shown = inspect.signature(Engine.generate).parameters
    given = {name: shown[name].default for name in SamplingKeywords.__annotations__}
    del given["n"]  # which is num_return_sequences
    out = engine.generate([1, 2], **{**given, "max_new_tokens": 3})
    assert len(out.token_ids) == 3  # type: ignore[union-attr]
    with pytest.raises(
        InvalidArgument, match="no use for label_bits=.*that have: .*'double-sparsity'"
    ):
        engine.generate([1, 2], drafter="ngram", label_bits=shown["label_bits"].default)


def test_other_faces_show_theirs() -> None:
    assert set(inspect.signature(SamplingParams).parameters) == params.NAMES
    loading = inspect.signature(Engine.from_pretrained).parameters
    assert {"dtype", "device_map", "kv_tier", "threads"} <= set(loading)
    by_adapter = set(inspect.signature(hf.generate).parameters)
    assert set(MethodKeywords.__annotations__) | {"drafter", "view", "acceptance"} <= by_adapter
