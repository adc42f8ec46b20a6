"""The suite tests what is installed: the repository root must not be on the path."""

import sys
from pathlib import Path

from hypothesis import settings

TESTS = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != TESTS.parent]
sys.path.insert(0, str(TESTS))  # helper modules of the tests

# The same examples in every run, on machines that may be slow.
settings.register_profile("specdec", derandomize=True, deadline=None)
settings.load_profile("specdec")
