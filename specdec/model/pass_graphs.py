"""PassGraphs: the CUDA graphs of a model's passes, for as long as the model is what it was."""

from __future__ import annotations

from transformers import PreTrainedModel

from specdec import ranks
from specdec.forward.cuda_graphs import CudaCapture, Graphs
from specdec.model.snapshot import Replays


class PassGraphs:
    """graphs: of passes on one GPU; None turns them off, and can be set at any time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._replays: Replays | None = None
        is_spread = getattr(model, "hf_device_map", None) is not None or ranks.is_split(model)
        is_one = model.device.type == "cuda" and not is_spread
        self.graphs: Graphs | None = Graphs(CudaCapture(model.device)) if is_one else None

    def begin(self) -> None:
        """A generation begins: forget all graphs if the model or its weights have changed."""
        replays = self._replays
        if self.graphs is not None and replays is not None and not replays.hold(in_full=True):
            self.graphs.clear()

    def now(self) -> Graphs | None:
        """The graphs, if a pass may be one: none of an older model, and none past a hook."""
        if self.graphs is None:
            return None
        if self._replays is None:
            self._replays = Replays(self._model)
        elif not self._replays.hold():
            self.graphs.clear()
        return self.graphs if self._replays.are_allowed else None
