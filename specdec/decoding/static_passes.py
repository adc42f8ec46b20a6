"""StaticPasses: passes over nodes whose inputs stand on the device, as graphs where there are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from specdec.cache.store import KVStore
from specdec.decoding.pass_nodes import PassNodes
from specdec.forward.forward_pass import ForwardPass, View
from specdec.forward.pass_ahead import PassAhead
from specdec.forward.query_recorder import QueryRecorder
from specdec.forward.static_inputs import PassInputs, PassShape
from specdec.forward.view_state import ViewState
from specdec.model.target import Target


class StaticPasses:
    """Runs passes of one model over one store without asking the host for anything.

    recorder: keeps the queries of these passes; None where nobody looks at them.
    """

    def __init__(
        self,
        target: Target,
        view: View,
        store: KVStore,
        state: ViewState,
        recorder: QueryRecorder | None,
    ) -> None:
        self.target, self.view, self.store = target, view, store
        self.state, self.recorder = state, recorder

    def ready(self, sequences: Sequence[int], rounds: Sequence[int]) -> Hashable | None:
        """All that the next pass works on, its inputs apart; None where it cannot be static.

        Then the host says pass by pass what is read: of text that lies in other memory, by a view
        that chooses there, or because it is a CPU, whose kernels are told so.
        """
        if self.store.places or not self.target.has_static_passes:
            return None
        device, layers = self.target.device, self.target.full_layers
        besides = self.view.prepare(
            PassAhead(self.store, sequences, rounds, self.state, layers, device)
        )
        return None if besides is None else (besides, self.store.addresses(device))

    def run(self, sequences: Sequence[int], ready: Hashable, nodes: PassNodes) -> Tensor:
        """Logits `[B, N, V]` after every node."""
        device = self.target.device
        shape = PassShape.of(len(sequences), nodes.width, nodes.first, len(self.store.levels))
        positions, anc = nodes.positions, nodes.ancestors(shape.slots)
        staged_positions = pad(positions, (0, shape.slots - positions.shape[1]))
        self.store.check_room(sequences, nodes.first + shape.nodes)
        where = list(sequences)

        def fill(inputs: PassInputs) -> None:
            row_maps = [rows[where] for rows in self.store.row_maps]
            inputs.fill(
                torch.tensor(nodes.ids), positions[:, nodes.first :], nodes.position_ids, anc,
                staged_positions, row_maps, nodes.first,
            )  # fmt: skip
            for level in self.store.levels:
                level.lengths_on(device)

        def run(inputs: PassInputs) -> tuple[Tensor, QueryRecorder | None]:
            noted = None if self.recorder is None else QueryRecorder(verified=True)
            pass_ = ForwardPass(
                self.store,
                self.view,
                range(shape.rows),
                inputs.positions,
                anc=inputs.anc,
                staged_positions=inputs.staged_positions,
                state=self.state,
                observers=() if noted is None else (noted,),
                inputs=inputs,
                position_ids=inputs.position_ids,
            )
            return self.target.forward(inputs.ids, pass_), noted

        graphs = self.target.graphs_now()
        if graphs is None:
            inputs = PassInputs(shape, device)
            fill(inputs)
            logits, noted = run(inputs)
        else:
            logits, noted = graphs.run(self.view.name, ready, shape, device, fill, run)
        if self.recorder is not None and noted is not None:
            self.recorder.kinds.update(noted.kinds)
            for (layer, place), q in noted.passes.items():
                self.recorder.note_pass(layer, where[place], q)
        return logits
