"""The suite tests what is installed: the repository root must not be on the path."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

TESTS = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != TESTS.parent]
sys.path.insert(0, str(TESTS))  # helper modules of the tests

# The same examples in every run, on machines that may be slow.
settings.register_profile("specdec", derandomize=True, deadline=None)
settings.load_profile("specdec")

# Tiny models gain nothing from threads, and the processes of pytest-xdist would fight for them.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped where there is none, and say so."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
