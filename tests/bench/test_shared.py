"""`specdec bench shared` on a tiny model: what is shared is read once and kept once."""

from __future__ import annotations

import pytest

from specdec import Engine
from specdec.bench.shared import profile_shared
from specdec.errors import InvalidArgument

from helpers import hostile, models


class Letters:
    """A tokenizer of a text's characters; what it decodes is another's business."""

    def __init__(self, other):
        self.other = other

    def __getattr__(self, name):
        return getattr(self.other, name)

    def __call__(self, text):
        return {"input_ids": [ord(c) % models.VOCAB for c in text]}


@pytest.fixture(scope="module")
def engine():
    made = Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))
    made.tokenizer = Letters(made.tokenizer)
    return made


def test_shared_and_apart(engine):
    found = profile_shared(engine, 100, [1, 3], "none", 3, 1)
    assert [cell["rows"] for cell in found["cells"]] == [1, 3]
    assert all(cell["texts_equal"] for cell in found["cells"])
    one, three = found["cells"]
    assert one["shared"]["kv_bytes"] == one["apart"]["kv_bytes"]
    assert three["shared"]["kv_bytes"] < three["apart"]["kv_bytes"]
    assert all(x > 0 for cell in found["cells"] for x in cell["shared"].values())


def test_what_does_not_fit(engine):
    with pytest.raises(InvalidArgument, match="--context 250 and 9 new tokens do not fit"):
        profile_shared(engine, 250, [1], "none", 9, 1)
