"""The suite tests what is installed: the repository root must not be on the path."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from specdec.control import calibration
from specdec.loading.gguf import built_tokenizers
from specdec.sparse.calibrations import finding

TESTS = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != TESTS.parent]

# The same examples in every run, on machines that may be slow; `--hypothesis-profile=random` takes
# those of `--hypothesis-seed`, and says how to have a failing one again.
settings.register_profile("specdec", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None, database=None, print_blob=True)
settings.load_profile("specdec")

# Tiny models gain nothing from threads, and the processes of pytest-xdist would fight for them.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start


@pytest.fixture(scope="session", autouse=True)
def _no_costs_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is measured and built is not kept in the user's cache."""
    folder = tmp_path_factory.mktemp("costs")
    with pytest.MonkeyPatch.context() as patch:
        for module in (calibration, built_tokenizers):
            patch.setattr(module, "cache_root", lambda: folder)
        patch.setattr(finding, "cache_root", lambda: folder)
        yield


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where things are kept during one test."""
    path = tmp_path / "cache"
    monkeypatch.setenv("SPECDEC_CACHE", str(path))
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped where there is none, and say so."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long the tests of each part took, which docs/testing.md bounds."""
    seconds = dict.fromkeys(("fast", "default", "slow"), 0.0)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                marks = report.keywords
                part = "slow" if "slow" in marks else "fast" if "fast" in marks else "default"
                seconds[part] += report.duration
    told = ", ".join(f"{part} {took:.0f} s" for part, took in seconds.items())
    terminalreporter.write_line(f"in tests, in all processes: {told}")
