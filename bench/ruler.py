"""RULER (arXiv 2404.06654): its synthetic tasks, made by the package of its authors."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specdec.bench.workloads import Workload
from specdec.errors import InvalidArgument

PACKAGE = "nvidia-long-context-eval"
TASKS = ("niah_single_1", "niah_multikey_2", "vt", "cwe", "fwe")
_ROOM = 64  # of a context, for the answer


def ruler(tokenizer: Any, contexts: Sequence[int], tasks: Sequence[str] = TASKS) -> list[Workload]:
    """One sample of each task at each length of context.

    Raises InvalidArgument if the package, or something it needs, is not installed.
    """
    spec = importlib.util.find_spec("long_context_eval")
    if spec is None or not spec.submodule_search_locations:
        raise InvalidArgument(
            f"suite 'ruler' needs {PACKAGE}: run `pip install --no-deps {PACKAGE}` and `pip "
            "install nltk wonderwords tenacity pyyaml`"
        )
    program = Path(next(iter(spec.submodule_search_locations))) / "data" / "prepare.py"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(f"{folder}/tokenizer")
        for context in contexts:
            for task in tasks:
                prompt, answers = _sample(program, Path(folder), task, context)
                rows.append(
                    Workload(
                        f"{task} @ {context}", f"RULER {task}", prompt, _ROOM, False,
                        answers=answers,
                    )
                )  # fmt: skip
    return rows


def _sample(program: Path, folder: Path, task: str, context: int) -> tuple[str, tuple[str, ...]]:
    """A prompt, and what its answer should hold."""
    out = folder / str(context)
    command = [
        sys.executable, str(program), "--save_dir", str(out), "--task", task,
        "--tokenizer_path", f"{folder}/tokenizer", "--tokenizer_type", "hf",
        "--max_seq_length", str(context), "--num_samples", "1", "--model_template_type", "base",
    ]  # fmt: skip
    # It starts "python" for each task: that must be this one. It imports what lies beside it.
    known = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    known["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), known.get("PATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env=known)
    made = out / task / "validation.jsonl"
    if not made.is_file():
        said = (done.stdout + done.stderr).strip().splitlines()
        raise InvalidArgument(
            f"{PACKAGE} could not make {task} at {context} tokens: "
            f"{said[-2] if len(said) > 1 else said}"
        )
    sample = json.loads(made.read_text("utf-8").splitlines()[0])
    text = str(sample["input"]) + str(sample.get("answer_prefix", ""))
    return text, tuple(map(str, sample["outputs"]))
