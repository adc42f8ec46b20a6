"""Whether a model can read what a prompt holds besides token ids."""

from __future__ import annotations

from typing import Any

from specdec.errors import InvalidArgument
from specdec.model.chunks import PREFILL_CHUNK
from specdec.model.prompt_inputs import takes_deepstack
from specdec.model.target import Target
from specdec.sampling.prompt import Prompt


def check_prompt(prompt: Prompt, target: Target, name: str) -> None:
    """Raise InvalidArgument, with what to do, for content that cannot be honoured.

    name: of the prompt, in errors.
    """
    if prompt.is_plain:
        return
    model, kind = target.model, type(target.model).__name__
    hidden = int(model.config.get_text_config().hidden_size)
    for span in prompt.spans:
        where = f"{name}: the span at {span.start}"
        for x in (span.embeddings, *span.deepstack):
            if not callable(x) and x.shape[1] != hidden:
                raise InvalidArgument(
                    f"{where} is of {x.shape[1]} numbers a token, and {kind} has {hidden}"
                )
        if span.bidirectional and span.length >= PREFILL_CHUNK:
            raise InvalidArgument(
                f"{where} has {span.length} tokens that see each other, and a pass reads "
                f"{PREFILL_CHUNK - 1} at most: cut it into several"
            )
        if span.deepstack and not takes_deepstack(model):
            raise InvalidArgument(
                f"{where} has features for layers (deepstack), which {kind} does not take"
            )
    if len({len(span.deepstack) for span in prompt.spans if span.deepstack}) > 1:
        raise InvalidArgument(f"{name}: spans have features for unlike numbers of layers")
    if prompt.positions is not None:
        _check_positions(prompt.positions, target, name, kind)


def check_goes_on(prompt: Prompt, name: str) -> None:
    """Raise InvalidArgument unless text can go on behind a prompt: its last token is text, and
    stands at the largest position."""
    if prompt.spans and prompt.spans[-1].end == len(prompt.ids):
        raise InvalidArgument(f"{name} ends with a span: end it with a token of text")
    places = prompt.positions
    if places is not None and bool((places[:, -1] != places.max()).any()):
        raise InvalidArgument(
            f"{name}: its last token stands at {places[:, -1].tolist()}, and text goes on from "
            f"{int(places.max()) + 1}: end it with a token of text at the largest position"
        )


def _check_positions(positions: Any, target: Target, name: str, kind: str) -> None:
    config = target.model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    if len(positions) > 1 and "mrope_section" not in parameters:
        raise InvalidArgument(
            f"{name} has positions of {len(positions)} dimensions, and {kind} rotates its tokens "
            "by one: give [n]"
        )
    if not target.rotation.is_fixed:
        raise InvalidArgument(
            f"{name} has positions of its own, and {kind} rotates tokens by the length of the "
            "text, which is then unknown: leave them out"
        )
