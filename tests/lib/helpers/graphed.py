"""What the tests of static passes and of their graphs share: targets whose passes are captured.

On a CPU `tape.Tape` stands for CUDA's capture; where there is a GPU, both run.
"""

from __future__ import annotations

import pytest
import torch

from specdec.cache.level import Level
from specdec.forward.cuda_graphs import CudaCapture, Graphs
from specdec.model.target import Target

from helpers import tape

NEVER = 1 << 30
ON_GPU = pytest.mark.gpu


def on(*cases):
    """Cases that start with a device; those on a GPU are marked."""
    return [pytest.param(*case, marks=ON_GPU if case[0] == "cuda" else ()) for case in cases]


def lengths_apart(monkeypatch):
    """The device's lengths are other memory than the host's, as on a GPU."""
    known = Level.lengths_on
    elsewhere = torch.device("cpu", 0)
    monkeypatch.setattr(Level, "lengths_on", lambda level, device: known(level, elsewhere))


def capture_for(model):
    return tape.Tape(model) if model.device.type == "cpu" else CudaCapture(model.device)


def graphed(model, after=0, bound=48):
    target = Target(model)
    target.graphs = Graphs(capture_for(model), bound, after)
    return target
