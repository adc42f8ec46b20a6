"""PassRunner: passes of a model over new nodes of some rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.control.crowd import crowd
from specdec.decoding.pass_nodes import PassNodes
from specdec.decoding.static_passes import StaticPasses
from specdec.decoding.text_follower import TextFollower
from specdec.forward.forward_pass import ForwardPass, View
from specdec.forward.observer import Observer
from specdec.forward.query_recorder import QueryRecorder
from specdec.forward.static_inputs import padded
from specdec.forward.view_state import ViewState
from specdec.kernels.cpu.thread_limit import cpu_quota
from specdec.model.target import Target
from specdec.sampling.sequence import Row


class PassRunner:
    """Stages nodes in the store that `text` follows, by one call of the model for all rows.

    state: what the view keeps from pass to pass. recorder: keeps the queries of all passes. watch:
    sees all their calls, so that none is static. sees_content: see `CachedModel`.
    """

    def __init__(
        self,
        target: Target,
        view: View,
        text: TextFollower,
        state: ViewState,
        recorder: QueryRecorder | None = None,
        watch: Sequence[Observer] = (),
        sees_content: bool = True,
    ) -> None:
        self.target, self.view, self.text, self.state = target, view, text, state
        self.observers = [*(() if recorder is None else (recorder,)), *watch]
        self._static = StaticPasses(target, view, text.store, state, recorder)
        self._is_watched, self._sees_content = bool(watch), sees_content
        self._is_on_cpu = target.device.type == "cpu"

    def run(
        self,
        rows: Sequence[Row],
        tokens: Sequence[list[int]],
        parents: Sequence[list[int]],
        best: bool = False,
    ) -> Tensor:
        """Logits `[B, N, V]` after new slots of every row, padded to the widest.

        parents: slots, or -1 for what follows the committed text. best: nothing but their argmax is
        wanted: where the target can do without logits, that is what comes back, `int64[B, N]`.
        """
        if self._is_on_cpu:
            crowd.look(min(torch.get_num_threads(), cpu_quota()))
        held = [self.text.held[row.slot] for row in rows]
        sequences = [row.slot for row in rows]
        rounds = [self.text.rounds[sequence] for sequence in sequences]
        ready = None if self._is_watched else self._static.ready(sequences, rounds)
        ahead = self._ahead(rows)
        width = max(map(len, tokens)) + (ahead is not None)
        if ready is not None:
            width = padded(width)
        offsets = [row.offset if self._sees_content else 0 for row in rows]
        nodes = PassNodes.of(held, tokens, parents, width, ahead, offsets)
        if ready is not None:
            out = self._static.run(sequences, ready, nodes)
        else:
            out = self._run(sequences, rounds, nodes, best)
        nodes.take_up(held)
        return out

    def _run(self, sequences: list[int], rounds: list[int], nodes: PassNodes, best: bool) -> Tensor:
        """A pass whose inputs stand on the host."""
        device = self.target.device
        places = nodes.positions.to(device)
        pass_ = ForwardPass(
            self.text.store,
            self.view,
            sequences,
            positions=places[:, nodes.first :],
            staged=nodes.first,
            anc=nodes.ancestors().to(device),
            staged_positions=places,
            rounds=rounds,
            state=self.state,
            observers=self.observers,
            position_ids=nodes.position_ids.to(device) if bool(nodes.offsets.any()) else None,
            layers=self.target.num_layers,
        )
        if best and self.target.can_choose:
            return self.target.choose(nodes.ids, pass_)
        return self.target.forward(nodes.ids, pass_)

    def _ahead(self, rows: Sequence[Row]) -> int | None:
        """A position that has a pass rotated by the span of its rows, if it is beyond theirs."""
        if self.target.rotation.is_fixed or not any(row.behind for row in rows):
            return None
        return max(row.span for row in rows) - 1
