"""What llama.cpp makes of a GGUF's vocabulary, files with one made by hand, and texts for them."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path
from typing import Any

import gguf
import pytest

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp is not installed")
_silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))


TEXTS = [
    "", " ", "  ", "\n", "\n\n \n", "\t\t x", "\r\n\r\nwindows\r\n",
    "I'm, we'll DON'T 'S 'Re it's y'all d'accord 'xyz",
    "1 22 333 4444 55555 666666 7777777 a12b345678c ٣٤٥ Ⅷ ½²",
    "12,345.67 $5 +3 <=> ^~| `a` #foo @bar __init__ a_b/c\\d path/\n//\n x/",
    "  several   spaces\t\ttabs  \n \n  end  ",
    "x    y        z  1   22" + " " * 70 + "w" + " " * 21,
    "日本語のテスト、漢字。 한국어 ㄅㄱ！…“q”",
    "žluťoučký KůŇ ÉCOLE École éÉ camelCaseHTTPServer ΑΒΓαβγ Жж",
    "🚀 (ok) 😶\u200d🌫\ufe0f ✅🦙🦙 ﬁ A\u030a e\u0301e\u0301",
    "हिन्दी ไทย ครับ العربية، עברית",
    "x\u00a0y\u2003z\u3000w\u2028v\u0085u\u200b\ufeff", "▁▁ ▁x", "<0x41>\x00a",
    "<s>hi</s><|im_start|>user\nhey<|im_end|>\n<tool> \n x <unk>y several'dZ",
]  # fmt: skip
SIGNS = "aabbABéÉstre   \n\n\r\t01234567''.,!/-_$<|`\"日のᄒ\u0301"


class LlamaVocab:
    """The tokenizer of a GGUF file in llama.cpp."""

    def __init__(self, path: Path) -> None:
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self._model, f"llama.cpp cannot read {path}"
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)

    def __call__(self, text: str, add_special: bool = True) -> list[int]:
        """The ids of a text, in which control tokens are tokens."""
        raw = text.encode()
        room = 4 * len(raw) + 16
        ids = (llama_cpp.llama_token * room)()
        size = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), ids, room, add_special, True)
        return list(ids[:size])

    @property
    def ends(self) -> list[int]:
        """The ids that end a generation."""
        ids = range(llama_cpp.llama_vocab_n_tokens(self._vocab))
        return [i for i in ids if llama_cpp.llama_vocab_is_eog(self._vocab, i)]


def write(path: Path, model_name: str = "tiny", **keys: Any) -> dict[str, Any]:
    """A file with a vocabulary and nothing else; its metadata, key -> plain value.

    keys: those of the format, without `tokenizer.ggml.`.
    """
    fields = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(model_name)
    writer.add_vocab_size(len(keys["tokens"]))
    for key, value in fields.items():
        add = {bool: writer.add_bool, str: writer.add_string, int: writer.add_uint32}
        add.get(type(value), writer.add_array)(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return {"general.name": model_name, **fields}


def drawn(size: int, signs: str) -> list[str]:
    """Texts of these signs, always the same."""
    rng = random.Random(size)
    return ["".join(rng.choices(signs, k=rng.randint(1, 30))) for _ in range(size)]
