"""The suite tests what is installed: the repository root must not be on the path."""

import os
import sys
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from specdec.control import calibration
from specdec.loading.gguf import built_tokenizers
from specdec.sparse.calibrations import finding

_SPENT = pytest.StashKey[float]()  # processor time when the last report was made
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


@pytest.fixture(scope="session", autouse=True)
def _two_heights_of_tiles(pytestconfig: pytest.Config) -> Iterator[None]:
    """Where the slow part is left out, engines compile their kernels for two of the heights that a
    tile may have, which is half of it; the tests of kernels name each height."""
    with pytest.MonkeyPatch.context() as patch:
        if pytestconfig.option.markexpr in ("not slow", "fast") and find_spec("numba"):
            for module in ("kernels.cpu.jit", "model.take_up"):
                patch.setattr(f"specdec.{module}.TILE_HEIGHTS", (1, 8))
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Each report says what its test took of the processor, whatever else the machine did."""
    report = yield
    now = _processor_time()
    report.user_properties.append(("processor", now - item.session.stash.get(_SPENT, now)))
    item.session.stash[_SPENT] = now
    return report


def pytest_collection_finish(session: pytest.Session) -> None:
    session.stash[_SPENT] = _processor_time()


def _processor_time() -> float:
    """Seconds of all threads of this process, and of processes that it has waited for."""
    return sum(os.times()[:4])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests of each part took of the processor, which docs/testing.md bounds."""
    seconds = dict.fromkeys(("fast", "default", "slow"), 0.0)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                marks = report.keywords
                part = "slow" if "slow" in marks else "fast" if "fast" in marks else "default"
                seconds[part] += dict(report.user_properties).get("processor", 0.0)
    told = ", ".join(f"{part} {took:.0f} s" for part, took in seconds.items())
    terminalreporter.write_line(f"processor time of tests, in all processes: {told}")
