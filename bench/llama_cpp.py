"""LlamaCpp: llama.cpp through llama-cpp-python, on the same weights in float32 and quantised."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch

from specdec.bench.contestants import Asked, Run, Stopwatch, text_alone
from specdec.cachedir import build_folder, cache_root, check_room
from specdec.errors import InvalidArgument
from specdec.loading import demo
from specdec.loading.gguf.file import GGUFFile

log = logging.getLogger("specdec")

_FILE = "model.gguf"
_FORMAT = 1
LOOKUP = 10  # its default, which is also that of transformers' prompt lookup here


class LlamaCpp:
    """Decoding by llama.cpp with as many threads as we use: plain, or with its prompt lookup."""

    def __init__(self, name: str, file: Path, context: int, lookup: int = 0) -> None:
        """lookup: draft tokens of a step of its prompt lookup; 0 for plain decoding."""
        llama_cpp = _package()
        threads = torch.get_num_threads()
        self.name = name
        self.model: Any = llama_cpp.Llama(
            str(file),
            n_ctx=context,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=-1 if torch.cuda.is_available() else 0,
            draft_model=_lookup(lookup) if lookup else None,
            verbose=False,
        )

    def run(self, ids: Asked, max_new_tokens: int, temperature: float, seed: int) -> Run:
        ids = text_alone(ids, self.name)
        self.model.reset()  # or the prompt of the last run would not be read again
        self.model.set_seed(seed)
        watch, tokens = Stopwatch(), []
        stream = self.model.generate(
            ids, temp=temperature, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0
        )
        for token in stream:
            tokens.append(int(token))
            watch.note(1)
            if len(tokens) == max_new_tokens:
                break
        return Run(tokens, watch.tokens_per_s, watch.first_s)

    def read(self, ids: list[int]) -> None:
        """See `Stepper`."""
        self.model.reset()
        self.model.eval(ids)

    def step(self, token: int) -> None:
        """See `Stepper`."""
        self.model.eval([token])


def contestant(name: str, model: Any, context: int) -> LlamaCpp:
    """`llama.cpp` on the GGUF that `model` came from, `llama.cpp-pld` with prompt lookup besides;
    `llama.cpp-f32` on its values as float32.

    Raises InvalidArgument if the package is missing, or the model did not come from a GGUF.
    """
    _package()
    file = file_of(model, name)
    if name == "llama.cpp-f32":
        return LlamaCpp(name, float32_gguf(file), context)
    lookup = LOOKUP if name == "llama.cpp-pld" else 0
    return LlamaCpp(f"{name}-{_kind(file)}", file, context, lookup)


def file_of(model: Any, baseline: str) -> Path:
    """The GGUF that a model came from. Raises InvalidArgument if there is none."""
    file = demo.demo_gguf() if model == "demo" else Path(str(model)).expanduser()
    if file.suffix.lower() != ".gguf":
        raise InvalidArgument(
            f"baseline {baseline!r} runs GGUF files, and {model} is none: measure 'demo' or a "
            ".gguf file, or leave the baseline out"
        )
    return file


def float32_gguf(file: Path) -> Path:
    """A GGUF with the values of `file` as float32, in the cache folder, written if need be."""
    stat = file.stat()
    about = f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    key = hashlib.sha256(about.encode()).hexdigest()[:32]
    folder = cache_root() / "gguf" / f"{key}-llama.cpp-float32-v{_FORMAT}"
    return build_folder(folder, lambda out: _dequantise(file, out / _FILE)) / _FILE


def _dequantise(file: Path, out: Path) -> None:
    import gguf
    from gguf.quants import dequantize

    if int(GGUFFile.open(file).fields.get("split.count", 1)) > 1:
        raise InvalidArgument(
            f"{file} is one of several shards, which are not copied as float32: join them with "
            "llama.cpp's gguf-split --merge to measure llama.cpp on them"
        )
    reader = gguf.GGUFReader(file)
    needed = sum(4 * int(tensor.n_elements) for tensor in reader.tensors)
    check_room(out.parent, needed)
    log.info("writing %s as float32, once: %.1f GB", file.name, needed / 1e9)
    writer = gguf.GGUFWriter(out, str(reader.fields["general.architecture"].contents()))
    left_out = ("GGUF.", "general.architecture", "general.file_type", "general.quantization")
    for name, entry in reader.fields.items():
        if not name.startswith(left_out):
            of = entry.types[-1] if len(entry.types) > 1 else None
            writer.add_key_value(name, entry.contents(), entry.types[0], of)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, values.reshape(tensor.shape[::-1].tolist()).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(file: Path) -> str:
    """The quantisation of most tensors, as in "q4_1"."""
    import gguf

    kinds = [str(t.tensor_type.name).lower() for t in gguf.GGUFReader(file).tensors]
    return max(set(kinds) - {"f32"} or {"f32"}, key=kinds.count)


def _lookup(tokens: int) -> Any:
    _package()
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    return LlamaPromptLookupDecoding(num_pred_tokens=tokens)


def _package() -> Any:
    try:
        import llama_cpp
    except ImportError as error:
        raise InvalidArgument(
            "baseline 'llama.cpp' needs llama-cpp-python: run `pip install "
            "'specdec-engine[peers]'` (it compiles for some minutes), or leave the baseline out"
        ) from error
    return llama_cpp
