"""Engine: from a prompt to text, by rounds of propose, verify, observe."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin

from specdec.cache.kept_text import KeptText
from specdec.cache.slots import Slots
from specdec.decoding.call_keywords import CallKeywords, shows_keywords
from specdec.decoding.conversation import Conversation
from specdec.decoding.drafting import DraftModels, make_drafter
from specdec.decoding.output import Generation
from specdec.decoding.prompt import read_prompts
from specdec.decoding.prompt_check import check_prompt
from specdec.decoding.prompt_images import with_images
from specdec.decoding.request import Request
from specdec.decoding.stream import GenerationStream
from specdec.decoding.streamers import ended_on_error
from specdec.errors import InvalidArgument, unknown_name
from specdec.model.driving import undone_on_error
from specdec.model.packing import Packing
from specdec.model.take_up import take_up
from specdec.offload.kv_memory import KVMemory
from specdec.offload.limits import kv_memory_of, weights_limits
from specdec.offload.saved_prompt import SavedPrompt, save
from specdec.placement import for_far_keys
from specdec.sampling.foreign_names import LOADING, refuse
from specdec.threads import Threads
from specdec.vision.encoder_cache import EncoderCache

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger("specdec")


class Engine:
    """A causal LM that generates losslessly, with any drafter. It holds no state of a request, but
    for what its tower has made of images (`encoder_cache`).

    Make one with `Engine.from_pretrained`, or `Engine(model, tokenizer)` for a loaded transformers
    model; the model's attention is then ours, and on a CPU its linear layers are laid out for
    passes of few rows, so hand over a model that nobody else uses. processor: of a model for
    images, transformers' own; it may stand in the tokenizer's place. no_processor: why there is
    none, where that is known. kv_tier, max_memory, offload_folder, threads: as for
    `from_pretrained`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any = None,
        processor: Any = None,
        *,
        name: str | None = None,
        kv_tier: str | Sequence[str] | KVMemory = "auto",
        max_memory: Mapping[int | str, int | str] | None = None,
        offload_folder: str | Path | None = None,
        threads: int | None = None,
    ) -> None:
        self.name = name or model.config.name_or_path or type(model).__name__
        if processor is None and isinstance(tokenizer, ProcessorMixin):
            processor, tokenizer = tokenizer, None
        self.processor, self.no_processor = processor, ""
        self.encoder_cache = EncoderCache()
        if tokenizer is None:
            tokenizer = getattr(processor, "tokenizer", None)
        self.tokenizer = tokenizer
        count = Threads(threads)
        with undone_on_error(model):
            self.target = target = take_up(model)
            target.threads = count
            target.kv_memory = kv_memory_of(target, kv_tier, max_memory, offload_folder)
        self._draft_models = DraftModels(self.tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        model: Any = "demo",
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        device_map: str | Mapping[str, Any] | None = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        offload_folder: str | Path | None = None,
        kv_tier: str | Sequence[str] | KVMemory = "auto",
        tensor_parallel: bool = False,
        local_files_only: bool = False,
        threads: int | None = None,
        activations: str = "auto",
        weights: str = "auto",
        **others: Any,
    ) -> Engine:
        """Load "demo", "demo-vision" (a toy that takes images), a hub id, a folder or a .gguf file;
        weights from safetensors or GGUF only.

        dtype "auto" is the checkpoint's own on a GPU and float32 on a CPU, where weights of a GGUF
        or checkpoint are read as they are stored; "float32" reads them as float32 instead.
        `engine.packing` says how weights are read. device "auto" is CUDA if there is one. Raises
        WeightsError, UnsupportedModel or InvalidArgument.

        Where memory is short: max_memory bounds weights, keys and values together, as in
        `{0: "22GiB", "cpu": "60GiB"}`. device_map: spreads the weights, as in transformers. kv_tier
        says where keys and values of older tokens lie: "auto" as near as they fit, or "device",
        "host", "disk", or a tier for each layer; the text is the same. offload_folder: for weights
        and keys that go to disk. OutOfMemory says what would have to change where nothing fits.
        tensor_parallel: under `torchrun` or `accelerate launch`, divide the model's heads among the
        processes; all of them give the same text.

        activations: on a CPU, "int8" multiplies a GGUF's blocks as they are with inputs rounded to
        8 bits, row by row, as llama.cpp does, in less memory and time; "float32" does not round;
        "auto" takes int8 where a file is quantised so, all layers are fused (`Target.keeps_bits`)
        and keys and values lie on the device: text is then exact against plain decoding with the
        same choice. Elsewhere "int8" by name may turn near ties.

        weights: on a CPU, "q4" or "q8" rounds the linear layers of a safetensors checkpoint to
        groups of 4 or 8 bits while it is loaded: less memory and time, and another model, against
        whose plain decoding text is exact. "auto" changes no number.

        threads: of the CPU, exactly so many; by default as many as PyTorch has, or fewer as long as
        other programs want the CPUs.

        local_files_only: of a hub id take what is in the cache already. torch_dtype is another name
        for dtype; settings of other libraries raise InvalidArgument, which says what to do instead.
        """
        from specdec.loading.loader import load

        Threads(threads)  # a bad number is told before anything is loaded
        dtype = _dtype(dtype, others)
        kv_memory = kv_tier if isinstance(kv_tier, KVMemory) else KVMemory(kv_tier)
        if kv_memory.is_far:
            activations = for_far_keys(activations)

        def made(activations: str) -> Engine:
            loaded = load(
                model,
                dtype=dtype,
                device=device,
                revision=revision,
                trust_remote_code=trust_remote_code,
                device_map=device_map,
                max_memory=weights_limits(max_memory),
                offload_folder=offload_folder,
                tensor_parallel=tensor_parallel,
                local_files_only=local_files_only,
                activations=activations,
                weights=weights,
            )
            engine = cls(
                loaded.model, loaded.tokenizer, loaded.processor, name=loaded.source,
                kv_tier=kv_tier, max_memory=max_memory, offload_folder=offload_folder,
                threads=threads,
            )  # fmt: skip
            engine.no_processor = loaded.no_processor
            return engine

        engine = made(activations)
        if activations == "auto" and not engine.target.shares_text:
            # Told from a layer's numbers alone: what its parts tell was known before (`foreseen`).
            log.info("%s: read again with float32 activations: not all fused", engine.name)
            del engine
            gc.collect()  # its weights make room
            engine = made("float32")
        elif not engine.target.shares_text:
            log.warning(
                "%s: activations='int8' where not all layers are fused: near ties may fall "
                "otherwise than in plain decoding; 'auto' or 'float32' is exact",
                engine.name,
            )
        return engine

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Engine({self.name!r}, {dtype} on {self.device})"

    @property
    def model(self) -> PreTrainedModel:
        return self.target.model

    @property
    def kv_memory(self) -> KVMemory:
        """Where keys and values may lie, and how much of them."""
        assert isinstance(self.target.kv_memory, KVMemory)
        return self.target.kv_memory

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

    def save_prompt(self, prompt: Any, folder: str | Path) -> SavedPrompt:
        """Read a prompt and keep its keys and values in `folder`, for `generate(saved_prompt=)`.

        A later prompt that starts with the same text goes on from there, with this model only. The
        folder is replaced as a whole; one that holds something else is refused.
        """
        prompt = with_images(prompt, self)
        prompts, _ = read_prompts(prompt, self.tokenizer, self.target.vocab_size)
        if len(prompts) > 1:
            raise InvalidArgument(f"save_prompt takes one prompt, and these are {len(prompts)}")
        check_prompt(prompts[0], self.target, "prompt")
        with self.target.threads.used():
            return save(self.target, prompts[0], folder)

    @shows_keywords
    def generate(
        self, prompt: Any = None, sampling_params: Any = None, **kwargs: Unpack[CallKeywords]
    ) -> Generation | list[Generation]:
        """The text for a prompt, or a list of them for a list of prompts.

        prompt: a string, token ids (whole numbers in a sequence or 1-D array), chat messages (list
            of dicts with role and content; a last one of the assistant is gone on from), or a list
            of prompts of these kinds; a batch may be ragged. Messages hold images as transformers
            has them: `{"type": "image", "image": PIL image or path}`. A `specdec.Prompt` holds
            embeddings in place of some ids (`Span`), and positions of its own. What a tokenizer or
            processor returns is a prompt, too, here or as keywords (`**tokenizer(text)`): its
            attention_mask tells the padding.
        sampling_params: SamplingParams with all sampling settings, or a GenerationConfig.
        drafter: "auto" (default) chooses in every round among plain decoding, n-grams, and the
            draft model if there is one; or "none", "ngram", "model", a combination like
            "ngram+model" (`specdec list` names all), or a function of (target, options).
        acceptance: "coupled" (default: the seed alone decides the text) or "rejection".
        streamer: a transformers streamer, fed as tokens are committed (one row only).
        generation_config: a transformers GenerationConfig, under what is given by name.
        saved_prompt: a folder of `save_prompt`, with which every prompt starts.
        saved_documents: such folders, in the order in which the model is to see them before the
            prompt; each may have been read alone. drafter="cacheblend" drafts from what they hold,
            and view="cacheblend" reads them so, and changes the text.
        share_prefixes: read and keep what several rows begin with once (True), or each by itself.
            By default once, unless activations are int8 and `engine.target.keeps_bits` is not true:
            then rounding differs with how a text was read, and near ties would go by who is beside.
        Every other keyword is a field of SamplingParams, an option of the drafter or view (`specdec
        list NAME`), or a synonym of one; an unknown one raises InvalidArgument with the nearest.
        With `num_return_sequences` n > 1 the list holds n texts for each prompt in turn.
        """
        with ended_on_error(kwargs.get("streamer")):
            request = self._request(prompt, sampling_params, kwargs)
            stream = self._stream(request)
        generations = stream.run()
        return generations if request.returns_list else generations[0]

    @shows_keywords
    def stream(
        self, prompt: Any = None, sampling_params: Any = None, **kwargs: Unpack[CallKeywords]
    ) -> GenerationStream:
        """As `generate`, but an iterator of `Step`s: the tokens of a row as they are committed.

        After the last step `stream.generations` holds the results, in order of the rows. Who leaves
        early calls `stream.close()`, or writes `with engine.stream(...) as stream:`.
        """
        with ended_on_error(kwargs.get("streamer")):
            return self._stream(self._request(prompt, sampling_params, kwargs))

    def chat(self, system: str | None = None, **settings: Any) -> Conversation:
        """A conversation that reads only what is new: `engine.chat().send("Hello")`.

        system: what stands before all turns. settings: as for `generate`, for every turn.
        """
        return Conversation(self, system, **settings)

    def turn(
        self,
        messages: Sequence[Mapping[str, Any]],
        settings: Mapping[str, Any],
        kept: KeptText | None,
        keep: Callable[[KeptText], None],
    ) -> GenerationStream:
        """One turn of a `Conversation`."""
        others = {name: value for name, value in settings.items() if name != "sampling_params"}
        request = self._request(messages, settings.get("sampling_params"), others)
        if request.saved_prompt is None and kept is not None:
            request = replace(request, saved_prompt=kept)
        return self._stream(request, keep)

    def _request(self, prompt: Any, settings: Any, kwargs: Mapping[str, Any]) -> Request:
        """The request; settings in the second place are those of vLLM or of transformers."""
        if isinstance(settings, GenerationConfig):
            if kwargs.get("generation_config") is not None:
                raise InvalidArgument("generation_config is given twice: give it once")
            return Request.parse(self, prompt, {**kwargs, "generation_config": settings})
        return Request.parse(self, prompt, {**kwargs, "sampling_params": settings})

    def _stream(
        self,
        request: Request,
        keep: Callable[[KeptText], None] | None = None,
        slots: Slots | None = None,
    ) -> GenerationStream:
        model = request.options.get("draft_model")
        runs = model is not None and request.methods.runs_draft_model
        draft = self._draft_models.get(model, self.target) if runs else None
        drafter = make_drafter(self.target, request, draft)
        return GenerationStream(self.target, request, drafter, slots, keep)


def _dtype(dtype: str | torch.dtype, others: dict[str, Any]) -> str | torch.dtype:
    """The dtype under either name; raises InvalidArgument for every other name."""
    given = others.pop("torch_dtype", None)
    for name, value in others.items():
        if name not in LOADING:
            known = {*signature(Engine.from_pretrained).parameters, "torch_dtype"} - {"others"}
            raise unknown_name("argument", name, known)
        refuse(LOADING, name, value)
    if given is not None and dtype != "auto":
        raise InvalidArgument("dtype and torch_dtype mean the same: give one of them")
    return dtype if given is None else given
