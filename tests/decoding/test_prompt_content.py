"""Prompts that hold embeddings and positions: the text is that of transformers, whoever drafts."""

from __future__ import annotations

import copy

import pytest
import torch

from specdec import Engine, Prompt, Span
from specdec.decoding.prompt import parse_prompts
from specdec.drafts.methods.ngram import NGramOptions
from specdec.drafts.ngram.drafter import NGramDrafter
from specdec.errors import InvalidArgument, PromptTooLong
from specdec.model import chunks

from helpers import graphed, models, vision
from helpers.matrix import crossed
from helpers.passes import make_row

IDS = [5, 7, 9, 9, 9, 9, 9, 9, 3, 4, 9, 9, 9, 8, 6, 3, 4]
HIDDEN = 24  # of the tiny models
NEW = 24
DRAFTERS = {
    "none": {}, "ngram": {"min_ngram": 1}, "model": {},
    "quest": {"budget": 19, "sink": 1, "recent": 2}, "streaming": {"budget": 8, "sink": 1},
    "snapkv": {"budget": 8, "sink": 1, "recent": 2}, "triforce": {}, "auto": {},
}  # fmt: skip


def spans(seed=0, hidden=HIDDEN, **kwargs):
    """In place of the nines of IDS."""
    random = torch.Generator().manual_seed(seed)
    made = [torch.randn(n, hidden, generator=random, dtype=torch.float64) for n in (6, 3)]
    return [Span(2, made[0], **kwargs), Span(10, made[1])]


def on_a_grid():
    """Positions as of two images of 2 x 3 and 1 x 3 patches between text: `[3, 17]`."""
    columns = [(0, 0, 0), (1, 1, 1)]
    columns += [(2, 2 + y, 2 + x) for y in range(2) for x in range(3)]
    columns += [(5, 5, 5), (6, 6, 6)]
    columns += [(7, 7, 7 + x) for x in range(3)]
    columns += [(10 + i,) * 3 for i in range(4)]
    return torch.tensor(columns).T


def embedded(model, prompt):
    """`[1, n, hidden]`, as somebody who uses transformers would make it."""
    found = model.get_input_embeddings()(torch.tensor([prompt.ids])).detach()
    for span in prompt.spans:
        found[0, span.start : span.end] = span.read().to(found)
    return found


@torch.no_grad()
def stock_text(model, prompt, count=NEW, **keywords):
    """Greedy text by passes of transformers' own over all of it, without a cache.

    keywords: of the decoder, each made for a length of text. Without a mask of ones it would take a
    jump in positions for the seam of two texts.
    """
    keywords = {"attention_mask": lambda n: torch.ones(1, n), **keywords}
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    embeds, text = embedded(model, prompt), []
    places = prompt.positions
    places = torch.arange(len(prompt.ids))[None] if places is None else places
    while len(text) < count:
        given = {name: make(embeds.shape[1]) for name, make in keywords.items()}
        told = places if len(places) == 1 else places[:, None]
        out = decoder(inputs_embeds=embeds, position_ids=told, use_cache=False, **given)
        text.append(int(head(out.last_hidden_state[0, -1]).argmax()))
        new = model.get_input_embeddings()(torch.tensor([[text[-1]]]))
        embeds = torch.cat([embeds, new], 1)
        places = torch.cat([places, (places.max() + 1).expand(len(places), 1)], 1)
    return text


def text_of(engine, prompt, **kwargs):
    return engine.generate(prompt, max_new_tokens=NEW, ignore_eos=True, **kwargs).token_ids


@pytest.fixture(scope="module")
def llama():
    model = models.build("llama")
    return Engine(copy.deepcopy(model)), model


@pytest.fixture(scope="module")
def draft():
    return models.build("llama", seed=1, hidden_size=16)  # no embedding of a span fits it


@pytest.fixture(scope="module", params=["qwen2-vl", "qwen3-vl"])
def vl(request):
    model = vision.build(request.param)
    return Engine(copy.deepcopy(model)), model


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_spans_read_as_transformers_reads_them(llama, draft, drafter):
    engine, model = llama
    prompt, options = Prompt(IDS, spans()), dict(DRAFTERS[drafter])
    if drafter in ("model", "triforce", "auto"):
        options["draft_model"] = draft
    want = model.generate(
        inputs_embeds=embedded(model, prompt), attention_mask=torch.ones(1, len(IDS)),
        max_new_tokens=NEW, do_sample=False,
    )[0].tolist()  # fmt: skip
    assert text_of(engine, prompt, drafter=drafter, **options) == want
    assert text_of(engine, IDS, drafter=drafter, **options) != want, "the embeddings count"


@pytest.mark.parametrize("drafter", ["none", "ngram", "quest", "model"])
def test_a_ragged_batch_with_and_without_spans(llama, draft, drafter):
    engine, _ = llama
    options = dict(DRAFTERS[drafter])
    if drafter == "model":
        options["draft_model"] = draft
    moved = torch.arange(17) + (torch.arange(17) > 12) * 20
    prompts = [
        Prompt(IDS, spans()), IDS[:4], Prompt(IDS, spans(seed=1)), Prompt(IDS), [3, 4] * 20,
        Prompt(IDS, positions=moved), Prompt(IDS, spans()[1:], moved),
    ]  # fmt: skip
    alone = [text_of(engine, prompt, drafter="none") for prompt in prompts]
    assert len(set(map(tuple, alone))) == len(prompts)
    together = engine.generate(
        prompts, max_new_tokens=NEW, ignore_eos=True, drafter=drafter, **options
    )
    assert [x.token_ids for x in together] == alone


def test_equal_ids_share_nothing(llama, tmp_path):
    """Neither keys and values, in a call or a folder, nor random numbers; equal content does."""
    engine, _ = llama
    folder, ids = tmp_path / "kept", [*IDS, *range(1, 20)]
    engine.save_prompt(Prompt(ids, spans()), folder)
    again = Prompt([*ids, 1, 2], spans())
    want = text_of(engine, again)
    assert text_of(engine, again, saved_prompt=folder) == want
    for prompt in (Prompt([*ids, 1, 2], spans(seed=1)), [*ids, 1, 2]):
        assert text_of(engine, prompt) != want
        with pytest.raises(InvalidArgument, match="token 2 of 36 differs"):
            text_of(engine, prompt, saved_prompt=folder)
    moved = Prompt([*ids, 1, 2], spans(), torch.arange(38) + 1)
    with pytest.raises(InvalidArgument, match="token 0 of 36 differs"):
        text_of(engine, moved, saved_prompt=folder)
    first, other = Prompt(IDS, spans()), Prompt(IDS, spans(seed=1))
    apart = [text_of(engine, first), text_of(engine, other)]
    assert apart[0] != apart[1]
    together = engine.generate([first, other, first], max_new_tokens=NEW, ignore_eos=True)
    assert [x.token_ids for x in together] == [*apart, apart[0]]
    seeded = [
        engine.generate(prompt, max_new_tokens=NEW, temperature=5.0, seed=1).token_ids
        for prompt in (first, Prompt(IDS, spans()), other)
    ]
    assert seeded[0] == seeded[1] != seeded[2]


def test_keys_tell_tokens_apart():
    plain, prompt = Prompt(IDS), Prompt(IDS, spans())
    assert plain.keys == IDS and plain.is_plain
    inside = [*range(2, 8), *range(10, 13)]
    assert [i for i in range(17) if prompt.keys[i] != IDS[i]] == inside
    assert len({prompt.keys[i] for i in inside}) == len(inside)
    assert Prompt(IDS, spans()).keys == prompt.keys != Prompt(IDS, spans(bidirectional=True)).keys
    moved = Prompt(IDS, positions=on_a_grid())
    assert [i for i in range(17) if moved.keys[i] != IDS[i]] == [*range(3, 17)]
    assert moved.offset == 14 - 17 and prompt.offset == 0
    assert Prompt(IDS, positions=torch.arange(17).expand(3, -1)).is_plain


def test_a_function_makes_embeddings_when_they_are_read(llama, monkeypatch):
    monkeypatch.setattr(chunks, "PREFILL_CHUNK", 4)  # which cuts the span
    engine, _ = llama
    made, calls = spans()[0].read(), []
    late = Span(2, lambda: calls.append(1) or made, length=6, digest=b"this image")
    prompt = Prompt(IDS, [late])
    assert not calls
    assert text_of(engine, prompt) == text_of(engine, Prompt(IDS, [Span(2, made)]))
    assert calls == [1]
    with pytest.raises(InvalidArgument, match="digest"):
        Span(2, lambda: made, length=6)
    with pytest.raises(InvalidArgument, match="of 6 tokens, and it has 5"):
        text_of(engine, Prompt(IDS, [Span(2, lambda: made, length=5, digest=b"x")]))


@crossed(together=1, drafter=["none", "ngram", "quest", "streaming", "auto"], size=[4, 7, 1024])
def test_positions_in_three_dimensions(vl, monkeypatch, size, drafter):
    """However the prompt is cut into chunks."""
    monkeypatch.setattr(chunks, "PREFILL_CHUNK", size)
    engine, model = vl
    prompt = Prompt(IDS, spans(hidden=32), on_a_grid())
    want = stock_text(model, prompt)
    assert text_of(engine, prompt, drafter=drafter, **DRAFTERS[drafter]) == want
    assert text_of(engine, Prompt(IDS, spans(hidden=32)), drafter=drafter) != want


def test_rows_of_text_beside_images(vl):
    engine, _ = vl
    prompts = [Prompt(IDS, spans(hidden=32), on_a_grid()), IDS[:5], Prompt(IDS, spans(1, 32))]
    alone = [text_of(engine, prompt, drafter="none") for prompt in prompts]
    for drafter in ("none", "ngram", "quest"):
        together = engine.generate(
            prompts, max_new_tokens=NEW, ignore_eos=True, drafter=drafter, **DRAFTERS[drafter]
        )
        assert [x.token_ids for x in together] == alone


def test_features_for_layers():
    """DeepStack, as Qwen3-VL has it."""
    model = vision.build("qwen3-vl")
    engine = Engine(copy.deepcopy(model))
    deep = [torch.randn(6, 32, dtype=torch.float64) for _ in range(2)]
    prompt = Prompt(IDS, spans(hidden=32, deepstack=deep), on_a_grid())
    seen = torch.zeros(1, len(IDS), dtype=torch.bool)
    seen[0, 2:8] = True
    want = stock_text(
        model,
        prompt,
        visual_pos_masks=lambda n: torch.nn.functional.pad(seen, (0, n - len(IDS))),
        deepstack_visual_embeds=lambda n: deep,
    )
    assert text_of(engine, prompt) == want
    assert want != text_of(engine, Prompt(IDS, spans(hidden=32), on_a_grid()))
    with pytest.raises(InvalidArgument, match="deepstack.*LlamaForCausalLM does not take"):
        text_of(Engine(models.build("llama", hidden_size=32)), prompt)


@pytest.mark.parametrize("size", [7, 1024])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_tokens_that_see_each_other(monkeypatch, name, size):
    """As Gemma 3's images do: a layer's window ends what they see before them, not behind."""
    monkeypatch.setattr(chunks, "PREFILL_CHUNK", size)
    model = models.build(name, seed=2)
    engine = Engine(copy.deepcopy(model))
    prompt = Prompt(IDS, spans(bidirectional=True))

    def mask(window):
        def of(n):
            i, j = torch.arange(n)[:, None], torch.arange(n)[None]
            sees = (j <= i) | (i >= 2) & (i < 8) & (j >= 2) & (j < 8)
            sees &= i - j < window
            return torch.zeros(1, 1, n, n, dtype=torch.float64).masked_fill(~sees, -torch.inf)

        return of

    def masks(n):
        every = {"full_attention": mask(n)(n), "sliding_attention": mask(4)(n)}
        return every if name == "gemma3" else every["full_attention"]

    want = stock_text(model, prompt, attention_mask=masks)
    for drafter in ("none", "ngram"):
        assert text_of(engine, prompt, drafter=drafter, **DRAFTERS[drafter]) == want
    assert text_of(engine, Prompt(IDS, spans())) != want


@pytest.mark.parametrize("drafter", ["none", "ngram"])
def test_a_text_that_is_read_anew_keeps_its_embeddings(drafter):
    """Phi-3 past its boundary, where transformers reads what it has ids of and drops the rest."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 24}
    model = models.build(
        "phi3", rope_parameters={**rope, "short_factor": [1.0] * 3, "long_factor": [2.0, 3.0, 4.0]},
        original_max_position_embeddings=24, sliding_window=None,
    )  # fmt: skip
    prompt, engine = Prompt(IDS, spans()), Engine(copy.deepcopy(model))
    assert engine.target.rotation.anew == 24
    want = stock_text(model, prompt)
    assert text_of(engine, prompt, drafter=drafter, **DRAFTERS[drafter]) == want


def test_static_passes_carry_the_offset(monkeypatch):
    """Passes at fixed addresses, recorded and replayed, as on a GPU."""
    graphed.lengths_apart(monkeypatch)
    model = models.build("llama")
    prompt = Prompt(IDS, spans(), torch.arange(17) + (torch.arange(17) > 12) * 20)
    want = stock_text(model, prompt)
    engine = Engine(copy.deepcopy(model))
    engine.target = graphed.graphed(engine.model)
    for drafter in ("none", "ngram"):
        assert text_of(engine, prompt, drafter=drafter, **DRAFTERS[drafter]) == want
    assert engine.target.graphs.replays > NEW / 2


def test_fused_layers_are_rotated_by_the_offset():
    """A run of packed layers, and the head that names the best token alone."""
    pytest.importorskip("numba", reason="numba is not installed")
    model = models.build("llama", dtype=torch.float32, head_dim=16)
    prompt = Prompt(IDS, spans(), torch.arange(17) + (torch.arange(17) > 12) * 20)
    engine = Engine(copy.deepcopy(model))
    assert len(engine.packing.fused) == 2
    for drafter in ("none", "ngram", "quest"):
        assert text_of(engine, prompt, drafter=drafter, **DRAFTERS[drafter]) == stock_text(
            model, prompt
        )


def test_ngrams_do_not_copy_what_only_holds_a_place():
    """Not out of a span, and not for an image because another one followed the same words."""
    ids = [1, 2, 9, 9, 9, 3, 1, 2]
    row = make_row(0, ids)
    for content, drafts in (None, {9}), (Prompt(ids, [Span(2, torch.ones(3, 4))]), set()):
        row.content = content
        drafter = NGramDrafter(None, NGramOptions(num_draft_tokens=2, min_ngram=1))
        drafter.join([row], None)
        (tree,) = drafter.propose([row], [2])
        assert set(tree.tokens[1:]) == drafts


def test_text_stops_where_positions_end(llama):
    engine, _ = llama
    far = torch.arange(17) + (torch.arange(17) > 12) * 233
    assert int(far.max()) == 249
    found = engine.generate(Prompt(IDS, positions=far), max_new_tokens=100, ignore_eos=True)
    assert len(found.token_ids) == 256 - 249
    with pytest.raises(PromptTooLong, match="positions"):
        engine.generate(Prompt(IDS, positions=far + 7), max_new_tokens=1)  # the last one is 256


@pytest.mark.parametrize("make, message", [
    (lambda: Prompt("text"), "takes token ids"),
    (lambda: Prompt([1, 2.5]), "takes token ids"),
    (lambda: Prompt(IDS, [*spans(), Span(7, torch.ones(2, HIDDEN))]), "overlaps"),
    (lambda: Prompt(IDS[:11], spans()), "leaves the prompt of 11"),
    (lambda: Prompt(IDS[:13], spans()), "ends with a span"),
    (lambda: Span(-1, torch.ones(2, HIDDEN)), "starts at -1"),
    (lambda: Span(1, torch.ones(2)), "shape"),
    (lambda: Span(1, torch.ones(2, 3, dtype=torch.int64)), "floating-point"),
    (lambda: Span(1, torch.ones(2, 3), deepstack=[torch.ones(3, 3)]), "deepstack.*3 tokens"),
    (lambda: Prompt(IDS, [Span(1, torch.ones(2, 5))]), "5 numbers a token.*has 24"),
    (lambda: Prompt(IDS, positions=torch.arange(16)), "17 tokens"),
    (lambda: Prompt(IDS, positions=torch.arange(34).view(2, 17)), "2 dimensions"),
    (lambda: Prompt(IDS, positions=torch.arange(17) - 1), "from 0 on"),
    (lambda: Prompt(IDS, positions=torch.arange(17.0)), "whole numbers"),
    (lambda: Prompt(IDS, positions=on_a_grid()), "rotates its tokens by one"),
    (lambda: Prompt(IDS, positions=torch.arange(17).flip(0)), "stands at .0.*goes on from 17"),
    (lambda: Prompt([1, 99], [Span(0, torch.ones(1, HIDDEN))]), "99.*no token id"),
])  # fmt: skip
def test_what_cannot_be_honoured_is_refused(llama, make, message):
    engine, _ = llama
    with pytest.raises(InvalidArgument, match=message):
        engine.generate(make(), max_new_tokens=2)


def test_who_takes_ids_alone_says_so():
    with pytest.raises(InvalidArgument, match="not understood here"):
        parse_prompts(Prompt(IDS, spans()), None, 40)
    assert parse_prompts([Prompt(IDS), [1]], None, 40) == ([IDS, [1]], True)
    scaled = models.build("phi3", rope_parameters={"rope_type": "dynamic", "factor": 2.0,
                                                   "rope_theta": 1e4})  # fmt: skip
    with pytest.raises(InvalidArgument, match="by the length of the text"):
        Engine(scaled).generate(Prompt(IDS, positions=torch.arange(17) + 1))
