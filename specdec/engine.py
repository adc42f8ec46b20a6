"""Engine: from a prompt to text, by rounds of propose, verify, observe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from specdec.drafting import DraftModels, make_drafter, runs_draft_model
from specdec.generation import GenerationStream
from specdec.kernels.panel_weight import PanelWeight
from specdec.offload.kv_memory import KVMemory
from specdec.output import Generation
from specdec.packing import Packing
from specdec.request import Request
from specdec.target import Target


class Engine:
    """A causal LM that generates losslessly, with any drafter. It holds no state of a request.

    Make one with `Engine.from_pretrained`, or `Engine(model, tokenizer)` for a loaded transformers
    model; the model's attention is then ours, and on a CPU its linear layers are laid out for
    passes of few rows, so hand over a model that nobody else uses. stored: weights of linear layers
    by module name, to be read in their own precision there (`loader.Loaded`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any = None,
        *,
        name: str | None = None,
        stored: Mapping[str, PanelWeight] | None = None,
        kv_memory: KVMemory | None = None,
    ) -> None:
        self.name = name or model.config.name_or_path or type(model).__name__
        self.tokenizer = tokenizer
        self.target = Target(model)
        self.target.pack(stored)
        self.target.kv_memory = kv_memory
        self._draft_models = DraftModels(self.target, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        model: Any = "demo",
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> Engine:
        """Load "demo", a hub id, a folder or a .gguf file; weights from safetensors or GGUF only.

        dtype "auto" is the checkpoint's own on a GPU and float32 on a CPU, where the blocks of a
        GGUF are read as they are stored; "float32" reads their dequantised values instead: the same
        numbers, multiplied in another order. `engine.packing` says how weights are read. device
        "auto" is CUDA if there is one. Raises WeightsError, UnsupportedModel or InvalidArgument.
        """
        from specdec.loader import load

        loaded = load(
            model,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        return cls(loaded.model, loaded.tokenizer, name=loaded.source, stored=loaded.stored)

    @property
    def model(self) -> PreTrainedModel:
        return self.target.model

    @property
    def packing(self) -> Packing:
        """How the weights are read on a CPU, and the way back: `packing.restore()`."""
        assert self.target.packing is not None
        return self.target.packing

    @property
    def device(self) -> torch.device:
        return self.target.device

    @property
    def dtype(self) -> torch.dtype:
        return self.target.dtype

    def generate(self, prompt: Any, **kwargs: Any) -> Generation | list[Generation]:
        """The text for a prompt, or a list of them for a list of prompts.

        prompt: a string, token ids (list of int or 1-D tensor), chat messages (list of dicts with
            role and content), or a list of prompts of these kinds; a batch may be ragged.
        drafter: "auto" (default) chooses in every round among plain decoding, n-grams, and the
            draft model if there is one; or "none", "ngram", "model", a combination like
            "ngram+model" (`specdec list` names all), or a function of (target, DraftOptions).
        acceptance: "coupled" (default: the seed alone decides the text) or "rejection".
        streamer: a transformers streamer, fed as tokens are committed (one row only).
        generation_config: a transformers GenerationConfig, under what is given by name.
        Every other keyword is a field of SamplingParams or DraftOptions, or a synonym of one; an
        unknown one raises InvalidArgument with the nearest name.
        With `num_return_sequences` n > 1 the list holds n texts for each prompt in turn.
        """
        request = Request.parse(self, prompt, kwargs)
        generations = self._stream(request).run()
        return generations if request.returns_list else generations[0]

    def stream(self, prompt: Any, **kwargs: Any) -> GenerationStream:
        """As `generate`, but an iterator of `Step`s: the tokens of a row as they are committed.

        After the last step `stream.generations` holds the results, in order of the rows.
        """
        return self._stream(Request.parse(self, prompt, kwargs))

    def _stream(self, request: Request) -> GenerationStream:
        model = request.options.draft_model
        runs = model is not None and runs_draft_model(request.drafter)
        draft = self._draft_models.get(model) if runs else None
        return GenerationStream(self.target, request, make_drafter(self.target, request, draft))
