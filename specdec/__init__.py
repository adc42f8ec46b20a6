"""Lossless speculative decoding for any Hugging Face causal LM.

from specdec import Engine
engine = Engine.from_pretrained("demo")
print(engine.generate("Once upon a time", max_new_tokens=64).text)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from specdec._version import __version__
from specdec.moved import install as _find_moved

if TYPE_CHECKING:
    from specdec import hf
    from specdec.decoding.conversation import Conversation
    from specdec.decoding.drafter import Drafter
    from specdec.decoding.options import DraftOptions
    from specdec.decoding.output import Generation, Provisional, Step
    from specdec.engine import Engine
    from specdec.errors import SpecdecError
    from specdec.sampling.params import SamplingParams
    from specdec.sampling.prompt import Prompt
    from specdec.sampling.span import Span
    from specdec.sampling.tree import Law, TokenTree

_find_moved()

# Imported when asked for: `specdec --help` should not wait for torch.
_PLACES = {
    "Conversation": "specdec.decoding.conversation",
    "DraftOptions": "specdec.decoding.options",
    "Drafter": "specdec.decoding.drafter",
    "Engine": "specdec.engine",
    "Generation": "specdec.decoding.output",
    "Law": "specdec.sampling.tree",
    "Prompt": "specdec.sampling.prompt",
    "Provisional": "specdec.decoding.output",
    "SamplingParams": "specdec.sampling.params",
    "Span": "specdec.sampling.span",
    "SpecdecError": "specdec.errors",
    "Step": "specdec.decoding.output",
    "TokenTree": "specdec.sampling.tree",
    "hf": "specdec.hf",
}

__all__ = [
    "Conversation", "DraftOptions", "Drafter", "Engine", "Generation", "Law", "Prompt",
    "Provisional", "SamplingParams", "Span", "SpecdecError", "Step", "TokenTree", "__version__",
    "hf",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'specdec' has no attribute {name!r}")
    module = import_module(_PLACES[name])
    return module if _PLACES[name] == f"specdec.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
