"""Engines that a module shares have the memory that they had, whatever a test gave them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _memory_is_given_back(request: pytest.FixtureRequest):
    shared = [name for name in ("engine", "llama") if name in request.fixturenames]
    targets = [request.getfixturevalue(name).target for name in shared]
    before = [target.kv_memory for target in targets]
    yield
    for target, memory in zip(targets, before, strict=True):
        target.kv_memory = memory
