"""What models for images hand to their decoders can be said as a Prompt; the text is the same."""

from __future__ import annotations

import copy

import pytest
import torch

from specdec import Engine, Prompt, Span

from helpers import vision

NEW = 16


def as_transformers_has_it(model, inputs):
    """The text, and what the decoder was given for the prompt."""
    seen = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    text = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    hook.remove()
    return text[0, inputs["input_ids"].shape[1] :].tolist(), seen[0]


def prompt_of(inputs, given, bidirectional=False):
    """Embeddings, positions and features of the image, as the decoder was given them."""
    ids = inputs["input_ids"][0]
    (places,) = (ids == vision.IMAGE).nonzero(as_tuple=True)
    features = given.get("deepstack_visual_embeds") or ()
    span = Span(
        int(places[0]),
        given["inputs_embeds"][0, places],
        bidirectional=bidirectional,
        deepstack=features,
    )
    positions = given["position_ids"]
    if positions.dim() == 3:  # places, and then time, height and width
        assert torch.equal(positions[0, 0], torch.arange(len(ids)))
        positions = positions[1:, 0]
    else:
        positions = positions[0]
    return Prompt(ids, [span], positions)


@pytest.mark.parametrize("name", vision.ARCHITECTURES)
def test_an_image_is_a_span(name):
    model = vision.build(name, seed=1)
    engine, prompts, wanted = Engine(copy.deepcopy(model)), [], []
    for seed in range(2):
        inputs = vision.inputs(name, seed)
        text, given = as_transformers_has_it(model, inputs)
        prompts.append(prompt_of(inputs, given, bidirectional=name == "gemma3"))
        wanted.append(text)
    assert wanted[0] != wanted[1]
    text_alone = model.generate(torch.tensor([[5, 7, 11]]), max_new_tokens=NEW, do_sample=False)
    prompts, wanted = [*prompts, [5, 7, 11]], [*wanted, text_alone[0, 3:].tolist()]
    for drafter in ("none", "ngram"):
        found = engine.generate(prompts, max_new_tokens=NEW, ignore_eos=True, drafter=drafter)
        assert [x.token_ids for x in found] == wanted
    less = Prompt(prompts[0].ids, [Span(3, prompts[0].spans[0].read())])
    is_said = name != "gemma3" and not name.startswith("qwen")  # by embeddings alone
    text = engine.generate(less, max_new_tokens=NEW, ignore_eos=True).token_ids
    assert (text == wanted[0]) == is_said
