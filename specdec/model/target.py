"""Target: an unmodified transformers model that reads and writes our KV store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec import ranks
from specdec.cache.kv_shape import KVShape
from specdec.cache.store import KVStore
from specdec.cache.store_maker import StoreMaker
from specdec.errors import OutOfMemory, SpecdecError
from specdec.forward import attention
from specdec.forward.cuda_graphs import Graphs
from specdec.forward.forward_pass import ForwardPass, View
from specdec.forward.model_settings import of_text
from specdec.forward.observer import Observer
from specdec.forward.rotation import RotaryState, Rotation, max_positions
from specdec.model.chunks import chunks
from specdec.model.driving import drive
from specdec.model.fused_head import FusedHead
from specdec.model.packing import Packing
from specdec.model.pass_graphs import PassGraphs
from specdec.model.prompt_inputs import PromptInputs, prompt_inputs
from specdec.model.text_part import decoder_of, layers_of
from specdec.model.turns import turn_of
from specdec.placement import main_device
from specdec.progress import reading_bar
from specdec.sampling.prompt import Prompt
from specdec.threads import Threads


class Target:
    """Runs passes of a causal LM: whole chunks of a prompt, single tokens, or trees.

    The model's attention is ours from now on, unless it is `borrowed`: then its owner switches it
    around each use (`attention.driven`). Raises UnsupportedModel for a model that cannot be driven
    losslessly. `take_up` makes one that is also compared and packed.

    packing, head: how weights are read, if not as they are. kv_memory: who makes its stores, if KV
    may lie elsewhere than on the device.
    """

    def __init__(self, model: PreTrainedModel, *, borrowed: bool = False) -> None:
        if not borrowed:
            drive(model)
        self.model = model
        self.packing: Packing | None = None
        self.head: FusedHead | None = None
        self.kv_memory: StoreMaker | None = None
        self.threads = Threads()
        self.is_parallel = ranks.is_split(model)  # other processes hold the rest of it
        self._graphs = PassGraphs(model)
        config = model.config.get_text_config()
        self.vocab_size: int = config.vocab_size
        self.num_layers: int = config.num_hidden_layers
        layers = layers_of(model)
        if layers is not None:  # fewer than its config says where it ends early
            self.num_layers = min(self.num_layers, len(layers))
        types = getattr(config, "layer_types", None)
        self.layer_types: list[str] = list(types or _layer_types(config))
        self.max_positions = max_positions(config)
        self.rotation = Rotation.of(model.config)
        self.rotary = RotaryState(model)
        self._turn = turn_of(model)
        self._sizes = self._sizes_now()

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
        self._graphs.begin()

    def _sizes_now(self) -> tuple[object, ...]:
        """What stores and fused passes are made for."""
        config = self.model.config.get_text_config()
        layers = layers_of(self.model)
        listed = None if layers is None else len(layers)
        return config.vocab_size, config.num_hidden_layers, listed, self.dtype

    @property
    def is_rounded(self) -> bool:
        """Whether products round their inputs: see `Packing.activations`."""
        return self.packing is not None and self.packing.activations != "float32"

    @property
    def keeps_bits(self) -> bool:
        """Whether a token that stands behind the same text has the same bits in any pass: see
        `Packing.keeps_bits`."""
        return self.packing is not None and self.packing.keeps_bits(self.num_layers)

    @property
    def shares_text(self) -> bool:
        """Whether a text is the same where others have read its beginning: not where products round
        what was read in another way."""
        return self.keeps_bits or not self.is_rounded

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

    @property
    def decoder(self) -> Any:
        """The module that holds the decoder layers: beside it may stand a tower for images."""
        return decoder_of(self.model)

    @property
    def graphs(self) -> Graphs | None:
        """Graphs of passes on one GPU; None turns them off, and can be set at any time."""
        return self._graphs.graphs

    @graphs.setter
    def graphs(self, graphs: Graphs | None) -> None:
        self._graphs.graphs = graphs

    def graphs_now(self) -> Graphs | None:
        """The graphs, if a pass may be one: none of an older model, and none past a hook."""
        return self._graphs.now()

    @property
    def has_static_passes(self) -> bool:
        """Whether passes over nodes are told on the device where they stand: see `ForwardPass`."""
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

    def new_store(
        self, sequences: int, capacity: int, later: Sequence[tuple[int, int]] = ()
    ) -> KVStore:
        """An empty store for this model; `capacity` counts tokens per sequence. later: rows and
        capacity of levels that will be pushed.

        Raises OutOfMemory where its keys and values fit nowhere they may lie: on no tier, too, if
        products round, since parts of attention on tiers move with what was committed.
        """
        if self.kv_memory is None:
            return KVStore(self.num_layers, sequences, capacity)
        store = self.kv_memory.store(self.kv_shape, sequences, capacity, self.device, later)
        if store.places and self.is_rounded:
            raise OutOfMemory(
                f"keys and values of {sequences} x {capacity} tokens do not fit on the device, and "
                "activations in 8 bits are for keys and values that do: load the model with "
                "activations='float32', or with kv_tier='disk' or 'host', which implies it"
            )
        return store

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
        content: Prompt | None = None,
    ) -> None:
        """Read `tokens` behind what `sequence` holds, and commit them; no logits are made.

        length: of the text that they are read for, if it goes on behind them; where rotation
        depends on it, they are rotated by it. content: what the text's prompt holds besides ids.
        """
        if not tokens:
            return
        start, done = store.length(sequence), 0
        span = length or start + len(tokens)
        with reading_bar(len(tokens)) as progress:
            spans = () if content is None else content.spans
            for chunk in chunks(tokens, start, span, self.rotation, spans):
                where = torch.tensor([chunk.positions], device=self.device)
                given = None if content is None else prompt_inputs(self.model, content, chunk)
                pass_ = ForwardPass(
                    store, view, [sequence], where, observers=observers,
                    position_ids=None if given is None else given.position_ids,
                    blocks=None if given is None else given.blocks,
                )  # fmt: skip
                with self._turn:
                    self._read(chunk.tokens, pass_, given)
                self._check_heard(pass_)
                store.commit(sequence, range(chunk.kept))
                done += chunk.kept
                progress(done, len(tokens))

    def _read(self, tokens: list[int], pass_: ForwardPass, given: PromptInputs | None) -> None:
        """One pass over a chunk of a prompt; no logits are made."""
        inputs, reader = self.inputs([tokens], pass_), self.model.base_model
        if given is not None:
            del inputs["input_ids"]
            inputs |= {"inputs_embeds": given.embeddings, **given.layers}
            if given.layers:  # which the model around it makes of images only
                reader = self.decoder
        reader(**inputs)

    @torch.inference_mode()
    def read(self, tokens: Sequence[Sequence[int]], pass_: ForwardPass) -> None:
        """A pass over `tokens[B][N]` for their keys and values alone: no logits are made."""
        with self._turn:
            self.model.base_model(**self.inputs(tokens, pass_))
        self._check_heard(pass_)

    @torch.inference_mode()
    def forward(self, tokens: Sequence[Sequence[int]] | Tensor, pass_: ForwardPass) -> Tensor:
        """Logits `[B, N, V]` after each of `tokens[B][N]`, whose KV is staged in the store."""
        with self._turn:
            logits: Tensor = self.model(**self.inputs(tokens, pass_)).logits
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
            best = self.head(self.inputs(tokens, pass_))
        self._check_heard(pass_)
        return best

    def _check_heard(self, pass_: ForwardPass) -> None:
        """Raise SpecdecError if a layer of the pass attended to its text in some other way."""
        if len(pass_.heard) < self.num_layers:
            missing = sorted({*range(self.num_layers)} - pass_.heard)
            raise SpecdecError(
                f"layers {missing} of {type(self.model).__name__} did not call specdec's "
                "attention, so they have not seen the text: it was patched, or switched to "
                f"{self.decoder.config._attn_implementation!r}; undo that, or call "
                f"model.set_attn_implementation({of_text(self.model.config, attention.NAME)!r})"
            )

    def inputs(
        self, tokens: Sequence[Sequence[int]] | Tensor, pass_: ForwardPass
    ) -> dict[str, object]:
        """What the model is called with."""
        self.rotary.reset()
        if not isinstance(tokens, Tensor):
            tokens = torch.tensor([list(row) for row in tokens], device=self.device)
        return {
            "input_ids": tokens,
            "position_ids": pass_.positions if pass_.position_ids is None else pass_.position_ids,
            "past_key_values": None,
            "use_cache": False,
            "specdec_pass": pass_,
        }


def _layer_types(config: Any) -> list[str]:
    """Kinds of layers of a config that does not name them: all alike."""
    kind = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    return [kind] * int(config.num_hidden_layers)
