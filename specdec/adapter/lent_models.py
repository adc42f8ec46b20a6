"""Models lent to the adapter for one call, and draft models that it has loaded itself."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from specdec.decoding.drafting import DraftModels
from specdec.decoding.request import Request
from specdec.forward import attention
from specdec.loading.loader import tokenizer_at_hand
from specdec.model import support
from specdec.model.probes import compare
from specdec.model.target import Target
from specdec.sampling.vocabulary import check_same_ids
from specdec.vision.encoder_cache import EncoderCache

# Draft models that were given by name, loaded once for each model that they draft for.
_drafts: WeakKeyDictionary[PreTrainedModel, DraftModels] = WeakKeyDictionary()


class Host(NamedTuple):
    """A model lent to us for one call."""

    model: PreTrainedModel
    target: Target
    tokenizer: Any
    encoder_cache: EncoderCache
    processor: Any = None


def borrow(model: PreTrainedModel, stack: ExitStack) -> Target:
    """The model as a target until the stack is left; then its attention is its own again."""
    support.check(model)
    known = support.is_tested(model) or attention.is_driven(model)
    stock = None if known else support.stock_logits(model)
    stack.enter_context(attention.driven(model))
    target = Target(model, borrowed=True)
    if stock is not None:
        compare(target, stock)
    return target


def borrow_draft(request: Request, host: Host, tokenizer: Any, stack: ExitStack) -> Target | None:
    """The draft model of a request, if its drafter runs one: a loaded model is borrowed, too.

    tokenizer: the draft model's own, if it was given.
    """
    model = request.options.get("draft_model")
    if model is None or not request.methods.runs_draft_model:
        return None
    if not isinstance(model, PreTrainedModel):
        if host.model not in _drafts:
            _drafts[host.model] = DraftModels(tokenizer_at_hand(host.model))
        return _drafts[host.model].get(model, host.target, host.tokenizer)
    size = model.config.get_text_config().vocab_size
    check_same_ids(host.tokenizer, tokenizer, host.target.vocab_size, size, type(model).__name__)
    return borrow(model, stack)
