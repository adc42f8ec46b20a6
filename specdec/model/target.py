"""Target: an unmodified transformers model that reads and writes our KV store."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from threading import RLock
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from specdec import ranks
from specdec.cache.kv_shape import KVShape
from specdec.cache.store import KVStore
from specdec.cache.store_maker import StoreMaker
from specdec.errors import SpecdecError, UnsupportedModel
from specdec.forward import attention
from specdec.forward.attention_call import AttentionCall
from specdec.forward.cuda_graphs import CudaCapture, Graphs
from specdec.forward.forward_pass import ForwardPass, View
from specdec.forward.full_view import FullView
from specdec.forward.model_settings import ModelSettings
from specdec.forward.observer import Observer, SeenPass
from specdec.forward.rotation import RotaryState, Rotation, max_positions
from specdec.kernels.cpu.registers import TILE_HEIGHTS
from specdec.kernels.linear.packed_weight import PanelWeight
from specdec.model import support
from specdec.model.fused_head import FusedHead
from specdec.model.packing import Packing
from specdec.model.snapshot import Replays
from specdec.placement import main_device
from specdec.progress import compiling_line, reading_bar
from specdec.sampling.tree import ancestor_words
from specdec.threads import Threads

log = logging.getLogger("specdec")

PREFILL_CHUNK = 1024  # tokens; long enough for matrix products to run at full speed


class Target:
    """Runs passes of a causal LM: whole chunks of a prompt, single tokens, or trees.

    The model's attention is switched to ours until it is given back, unless it is `borrowed`: then
    its owner does so around each use (`attention.driven`). Raises UnsupportedModel for a model that
    cannot be driven losslessly, which then is as it was.
    """

    def __init__(self, model: PreTrainedModel, *, borrowed: bool = False) -> None:
        self.model = model
        self.packing: Packing | None = None
        self.head: FusedHead | None = None
        self.kv_memory: StoreMaker | None = None
        self.threads = Threads()
        self.is_parallel = ranks.is_split(model)  # other processes hold the rest of it
        self.graphs = self._graphs()
        self._replays: Replays | None = None
        config = model.config.get_text_config()
        self.vocab_size: int = config.vocab_size
        self.num_layers: int = config.num_hidden_layers
        layers = getattr(model.base_model, "layers", None)
        if isinstance(layers, nn.ModuleList):  # fewer than its config says where it ends early
            self.num_layers = min(self.num_layers, len(layers))
        types = getattr(config, "layer_types", None)
        self.layer_types: list[str] = list(types or _layer_types(config))
        self.max_positions = max_positions(config)
        self.rotation = Rotation.of(model.config)
        self.rotary = RotaryState(model)
        self._turn = _turn_of(model)
        self._sizes = self._sizes_now()
        self._before: ModelSettings | None = None
        if borrowed:
            return
        support.check(model)
        with self._turn:
            self._before = ModelSettings(model)
            self._was_packed = Packing.on(model) is not None
            try:
                self._drive()
            except BaseException:
                self.give_back()
                raise

    def _drive(self) -> None:
        """Switch the model's attention to ours."""
        model = self.model
        model.eval()
        known = support.is_tested(model) or model.config._attn_implementation == attention.NAME
        stock = None if known else support.stock_logits(model)
        attention.register()
        model.set_attn_implementation(attention.NAME)
        if stock is None:
            return
        try:
            self.compare(stock)
        except attention.NoPass as error:
            raise UnsupportedModel(
                f"{type(model).__name__} does not hand on what its attention is called with, so "
                "ours cannot be driven through it"
            ) from error

    def give_back(self) -> None:
        """Undo what this target did to its model: packed weights, fused forwards, attention, mode.

        It is of no use afterwards. What was so before, is let be.
        """
        packing = Packing.on(self.model)
        if packing is not None and not self._was_packed:
            packing.restore()
        if self._before is not None:
            self._before.restore()

    def begin(self) -> None:
        """Have it seen what was done to the model since; a generation begins.

        Raises SpecdecError for what cannot be followed: other sizes, another dtype, training mode.
        """
        if self._sizes_now() != self._sizes:
            raise SpecdecError(
                f"{type(self.model).__name__} has another vocabulary, number of layers or dtype "
                "than when it was taken up: make a new Engine"
            )
        if self.model.training:
            raise SpecdecError(
                f"{type(self.model).__name__} is in training mode: call model.eval() first"
            )
        packing = Packing.on(self.model)
        if packing is not None:
            packing.begin()
        replays = self._replays
        if self.graphs is not None and replays is not None and not replays.hold(in_full=True):
            self.graphs.clear()

    def _sizes_now(self) -> tuple[object, ...]:
        """What stores and fused passes are made for."""
        config = self.model.config.get_text_config()
        layers = getattr(self.model.base_model, "layers", None)
        listed = len(layers) if isinstance(layers, nn.ModuleList) else None
        return config.vocab_size, config.num_hidden_layers, listed, self.dtype

    def compare(self, stock: Tensor) -> None:
        """Raise UnsupportedModel unless our attention gives `support.stock_logits(model)` too."""
        tokens = support.probe(self.model)[0].tolist()
        positions = torch.arange(len(tokens), device=self.device)[None]
        windows, name = _Windows(), type(self.model).__name__
        store = self.new_store(1, len(tokens))
        pass_ = ForwardPass(store, FullView(), [0], positions, observers=[windows])
        support.compare(self.forward([tokens], pass_), stock, name)
        support.check_windows(self.model.config.get_text_config(), windows.told, name)

    @property
    def longest_text(self) -> int:
        """How many tokens a text may have: its last one is never read, and needs no position."""
        return self.max_positions + 1

    @property
    def full_layers(self) -> list[int]:
        """The layers that read more than a window."""
        kinds = self.layer_types[: self.num_layers]
        return [i for i, kind in enumerate(kinds) if kind != "sliding_attention"]

    @property
    def device(self) -> torch.device:
        """Where tokens go in: of a model whose weights are spread, its main device."""
        placed = getattr(self.model, "hf_device_map", None)
        return self.model.device if placed is None else main_device(placed)

    def _graphs(self) -> Graphs | None:
        """Graphs of passes on one GPU; None turns them off, and can be set at any time."""
        is_spread = self.is_parallel or getattr(self.model, "hf_device_map", None) is not None
        if self.model.device.type != "cuda" or is_spread:
            return None
        return Graphs(CudaCapture(self.model.device))

    def graphs_now(self) -> Graphs | None:
        """The graphs, if a pass may be one: none of an older model, and none past a hook."""
        if self.graphs is None:
            return None
        if self._replays is None:
            self._replays = Replays(self.model)
        elif not self._replays.hold():
            self.graphs.clear()
        return self.graphs if self._replays.are_allowed else None

    @property
    def places_passes(self) -> bool:
        """Whether passes over nodes are told where they stand on the device: see `ForwardPass`."""
        is_spread = getattr(self.model, "hf_device_map", None) is not None
        return self.graphs is not None or (self.device.type == "cuda" and not is_spread)

    def clock(self) -> float:
        """Seconds, for decisions about speed: of one clock where ranks share the model."""
        return ranks.agreed(self.is_parallel, perf_counter())

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def has_room(self, tokens: int) -> bool:
        """Whether keys and values of so many tokens may all lie on the device."""
        memory = self.kv_memory
        return memory is None or memory.has_room(self.kv_shape, tokens, self.device)

    def new_store(self, sequences: int, capacity: int) -> KVStore:
        """An empty store for this model; `capacity` counts tokens per sequence.

        Raises OutOfMemory where its keys and values fit nowhere they may lie.
        """
        if self.kv_memory is None:
            return KVStore(self.num_layers, sequences, capacity)
        return self.kv_memory.store(self.kv_shape, sequences, capacity, self.device)

    @property
    def kv_shape(self) -> KVShape:
        """What a token's keys and values take in this process."""
        shape = KVShape.of(self.model.config, self.dtype)
        if self.is_parallel:
            shape = replace(shape, kv_heads=shape.kv_heads // ranks.world_size())
        return shape

    @torch.inference_mode()
    def prefill(
        self,
        store: KVStore,
        view: View,
        sequence: int,
        tokens: Sequence[int],
        observers: Sequence[Observer] = (),
        length: int | None = None,
    ) -> None:
        """Read `tokens` behind what `sequence` holds, and commit them; no logits are made.

        length: of the text that they are read for, if it goes on behind them; where rotation
        depends on it, they are turned by it.
        """
        if not tokens:
            return
        start = store.length(sequence)
        whole = self.rotation.regime(length or start + len(tokens))
        chunk = PREFILL_CHUNK if self.rotation.is_fixed else PREFILL_CHUNK - 1
        with reading_bar(len(tokens)) as progress:
            for first in range(0, len(tokens), chunk):
                part = list(tokens[first : first + chunk])
                end = start + first + len(part)
                positions = list(range(start + first, end))
                kept = range(len(part))
                if self.rotation.regime(end) != whole:
                    # One more token at the text's end, which nobody sees and nobody keeps, has all
                    # of them turned by the text's length.
                    part.append(part[-1])
                    positions.append((length or start + len(tokens)) - 1)
                where = torch.tensor([positions], device=self.device)
                pass_ = ForwardPass(store, view, [sequence], where, observers=observers)
                with self._turn:
                    self.model.base_model(**self._inputs([part], pass_))
                self._check_heard(pass_)
                store.commit(sequence, kept)
                progress(first + len(kept), len(tokens))

    @torch.inference_mode()
    def forward(self, tokens: Sequence[Sequence[int]] | Tensor, pass_: ForwardPass) -> Tensor:
        """Logits `[B, N, V]` after each of `tokens[B][N]`, whose KV is staged in the store."""
        with self._turn:
            logits: Tensor = self.model(**self._inputs(tokens, pass_)).logits
        self._check_heard(pass_)
        return logits

    @property
    def can_choose(self) -> bool:
        """Whether `choose` is cheaper than `forward`: on a CPU, with a head that has been fused."""
        return self.head is not None and self.head.is_usable

    @torch.inference_mode()
    def choose(self, tokens: Sequence[Sequence[int]], pass_: ForwardPass) -> Tensor:
        """The argmax `int64[B, N]` of the logits that `forward` would give, which are not made."""
        assert self.head is not None
        with self._turn:
            best = self.head(self._inputs(tokens, pass_))
        self._check_heard(pass_)
        return best

    def _check_heard(self, pass_: ForwardPass) -> None:
        """Raise SpecdecError if a layer of the pass attended to its text in some other way."""
        if len(pass_.heard) < self.num_layers:
            missing = sorted({*range(self.num_layers)} - pass_.heard)
            raise SpecdecError(
                f"layers {missing} of {type(self.model).__name__} did not call specdec's "
                "attention, so they have not seen the text: it was patched, or switched to "
                f"{self.model.config._attn_implementation!r}; undo that, or call "
                f"model.set_attn_implementation({attention.NAME!r})"
            )

    def pack(self, stored: Mapping[str, PanelWeight] | None = None) -> Packing:
        """Lay the model out for fast passes on this CPU, in place: see `Packing`.

        stored: weights of linear layers by module name, in the precision of their file. Kernels
        that were never compiled on this machine are compiled now, for every height of their tiles.
        """
        with self._turn, compiling_line():
            self.packing = packing = Packing.of(self.model, stored)
            packing.fuse(self, lambda probe: self._probe_pass(observers=[probe]))
            if packing.linears:
                self._compile()
        log.info("weights: %s", packing)
        return packing

    def _compile(self) -> None:
        """Run every kernel of a pass once for every height of its tiles, and fuse the head."""
        assert self.packing is not None
        for nodes in TILE_HEIGHTS:
            tokens, pass_ = self._probe_pass(range(nodes))
            logits = self.forward([tokens], pass_)
            if self.head is None:
                self.head = FusedHead.of(self.packing, self._inputs([tokens], pass_), logits)
            if self.head is not None:
                self.choose([tokens], pass_)

    def _probe_pass(
        self, at: Sequence[int] | None = None, observers: Sequence[Observer] = ()
    ) -> tuple[list[int], ForwardPass]:
        """A chain of tokens at some positions; by default a few from first to last, to compare."""
        if at is None:
            change = self.rotation.first_change
            last = min(self.max_positions, change or self.max_positions, 1 << 16) - 1
            at = sorted({0, 1, last // 3, last})
        nodes = len(at)
        positions = torch.tensor([list(at)])
        pass_ = ForwardPass(
            self.new_store(1, nodes),
            FullView(),
            [0],
            positions,
            anc=ancestor_words([list(range(-1, nodes - 1))], nodes),
            staged_positions=positions,
            observers=observers,
            layers=self.num_layers,
        )
        return [token % self.vocab_size for token in range(nodes)], pass_

    def _inputs(
        self, tokens: Sequence[Sequence[int]] | Tensor, pass_: ForwardPass
    ) -> dict[str, object]:
        self.rotary.reset()
        if not isinstance(tokens, Tensor):
            tokens = torch.tensor([list(row) for row in tokens], device=self.device)
        return {
            "input_ids": tokens,
            "position_ids": pass_.positions,
            "past_key_values": None,
            "use_cache": False,
            "specdec_pass": pass_,
        }


class _Windows:
    """Notes the window that each layer asks for: an `Observer`."""

    def __init__(self) -> None:
        self.told: dict[int, int | None] = {}

    def see(self, call: AttentionCall, pass_: SeenPass) -> None:
        self.told[call.layer] = call.window


_turns: WeakKeyDictionary[nn.Module, AbstractContextManager[Any]] = WeakKeyDictionary()


def _turn_of(model: PreTrainedModel) -> AbstractContextManager[Any]:
    """What a pass of a model holds, so that threads take turns: some rotate by state of their own.

    Models that share modules, as early exits do, share it.
    """
    return _turns.setdefault(model.get_input_embeddings() or model, RLock())


def _layer_types(config: Any) -> list[str]:
    """Kinds of layers of a config that does not name them: all alike."""
    kind = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    return [kind] * int(config.num_hidden_layers)
