"""Documents that were read apart: fused, read again in part, as drafts and as the cache itself."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch
import transformers as t

from specdec import Engine
from specdec.errors import InvalidArgument, PromptTooLong, UnsupportedModel
from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.offload.kv_memory import KVMemory
from specdec.offload.saved_documents import SavedDocuments
from specdec.offload.split import Sizes
from specdec.sampling.prompt import Prompt
from specdec.sampling.span import Span
from specdec.sparse.blend.deviation import deviation, farthest
from specdec.sparse.blend.fused_documents import FusedDocuments
from specdec.sparse.maths.key_rotation import KeyRotation

from helpers import hostile, models
from helpers.matrix import crossed

LENGTHS = (23, 31, 17)
DOCUMENTS = [
    [(7 * i * i + 5 * i * d + d) % models.VOCAB for i in range(n)] for d, n in enumerate(LENGTHS)
]
TEXT = sum(DOCUMENTS, [])
QUESTION = [3, 4, 5]
SMALL = Sizes(window=16, block=8, room=1024, staging_bytes=8000)
SIZES = dict(
    vocab_size=models.VOCAB, hidden_size=32, intermediate_size=32, num_attention_heads=4,
    num_key_value_heads=2, num_hidden_layers=3, max_position_embeddings=256, bos_token_id=None,
    eos_token_id=None, pad_token_id=None,
)  # fmt: skip
# grouped heads, q/k norm, sliding and full layers that turn differently, sinks, softcap, windows
OTHERS = {
    "yarn": lambda: t.LlamaConfig(
        **SIZES, rope_parameters={
            "rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "phi": lambda: t.PhiConfig(  # half of the channels turn, as its attention slices them
        **SIZES, rope_parameters={
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5
        },
    ),
    "glm": lambda: t.GlmConfig(**SIZES, head_dim=8),  # half of them, in neighbouring pairs
    "neox": lambda: t.GPTNeoXConfig(**SIZES),
    "smollm3": lambda: t.SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1]),  # one layer never turns
}  # fmt: skip
NAMES = [*OTHERS, "llama", "qwen3", "gemma3", "gpt-oss", "gemma2", "mistral", "phi3"]


@pytest.fixture(autouse=True)
def others(monkeypatch):
    for name, config in OTHERS.items():
        monkeypatch.setitem(models.ARCHITECTURES, name, config)


def saved(engine, folder, documents=DOCUMENTS):
    for number, document in enumerate(documents):
        engine.save_prompt(document, folder / str(number))
    return [folder / str(number) for number in range(len(documents))]


def fused(model, folder, share, documents=DOCUMENTS):
    engine = Engine(copy.deepcopy(model))
    return FusedDocuments(SavedDocuments(saved(engine, folder, documents)), engine.target, share)


def stock(model, ids, start=0):
    """Keys and values of each layer, by transformers: `[Hkv, n, D]`."""
    places = torch.arange(start, start + len(ids))[None]
    with torch.no_grad():
        cache = model(torch.tensor([ids]), position_ids=places, use_cache=True).past_key_values
    return [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def assert_same(kv, want, atol=1e-5):
    for layer, pair in enumerate(want):
        for mine, other in zip((kv.k[layer], kv.v[layer]), pair, strict=True):
            assert torch.allclose(mine[:, -other.shape[1] :], other, atol=atol), layer


@pytest.fixture(scope="module")
def llama():
    return models.build("llama", num_hidden_layers=4)


@pytest.fixture
def engine(llama):
    return Engine(copy.deepcopy(llama))


@pytest.mark.parametrize("name", NAMES)
def test_all_read_again_is_the_text_read_as_one(name, tmp_path):
    """Against our own reading, which others hold to transformers' (caches there keep a window)."""
    model = models.build(name)
    blended = fused(model, tmp_path, 1.0)
    target = blended.target
    store = target.new_store(1, len(TEXT) + 8)
    target.prefill(store, FullView(), 0, TEXT)
    level = store.levels[0]
    want = [
        (level.k[i][0, :, : len(TEXT)], level.v[i][0, :, : len(TEXT)])
        for i in range(target.num_layers)
    ]
    assert_same(blended.kv, want, 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_none_read_again_is_each_document_alone(name, tmp_path):
    """As transformers reads a document at the places where it stands now."""
    model = models.build(name)
    kv, start = fused(model, tmp_path, 0.0).kv, 0
    for document in DOCUMENTS:
        end = start + len(document)
        for layer, (k, v) in enumerate(stock(model, document, start)):
            kept = k.shape[1]  # sliding layers keep their window
            for mine, other in ((kv.k[layer], k), (kv.v[layer], v)):
                assert torch.allclose(mine[:, end - kept : end], other, atol=1e-5)
        start = end


def test_the_first_document_is_exact(llama, tmp_path):
    kv = fused(llama, tmp_path, 0.3).kv
    for layer, (k, v) in enumerate(stock(llama, TEXT)):
        first = LENGTHS[0]
        assert torch.allclose(kv.k[layer][:, :first], k[:, :first], atol=1e-5)
        assert torch.allclose(kv.v[layer][:, :first], v[:, :first], atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_selection_as_in_numpy(seed):
    rng = np.random.default_rng(seed)
    k, v, new_k, new_v = rng.normal(size=(4, 2, 19, 5))
    gaps = [
        sum(((new_k - k)[h, t] ** 2).sum() + ((new_v - v)[h, t] ** 2).sum() for h in range(2))
        for t in range(19)
    ]
    found = deviation(*map(torch.tensor, (k, v, new_k, new_v)))
    assert np.allclose(found.numpy(), gaps)
    assert farthest(found, 6).tolist() == sorted(np.argsort(gaps)[::-1][:6].tolist())
    assert farthest(torch.zeros(5), 2).tolist() == [0, 1]


def read_again(model, kv, hidden, chosen, layer):
    """A layer of Llama over the tokens `chosen`, by its formula: what goes on to the next."""
    part, heads = model.model.layers[layer], model.config.num_attention_heads
    attention, groups = part.self_attn, heads // model.config.num_key_value_heads
    x = part.input_layernorm(hidden)
    cos, sin = model.model.rotary_emb(hidden[None], torch.tensor(chosen)[None])

    def turned(y):
        a, b = y.chunk(2, -1)
        return y * cos + torch.cat([-b, a], -1) * sin

    q, k, v = (
        f(x).view(len(chosen), -1, attention.head_dim).transpose(0, 1)
        for f in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    kv[layer][0][:, chosen], kv[layer][1][:, chosen] = turned(k), v
    keys, values = (side.repeat_interleave(groups, 0) for side in kv[layer])
    logits = turned(q) @ keys.transpose(1, 2) * attention.head_dim**-0.5
    hides = torch.arange(keys.shape[1])[None] > torch.tensor(chosen)[:, None]
    o = logits.masked_fill(hides, -torch.inf).softmax(-1) @ values
    hidden = hidden + attention.o_proj(o.transpose(0, 1).reshape(len(chosen), -1))
    return hidden + part.mlp(part.post_attention_layernorm(hidden))


def test_gradual_filtering_is_that_of_the_formula(llama, tmp_path):
    """Layer by layer over fewer and fewer tokens, as the paper has it: the same keys and values."""
    share, first = 0.15, LENGTHS[0]
    count = -(-len(TEXT) * 15 // 100)
    kv = [
        [torch.cat(side, 1) for side in zip(*pairs, strict=True)]
        for pairs in zip(
            *(stock(llama, d, s) for d, s in zip(DOCUMENTS, (0, 23, 54), strict=True)), strict=True
        )
    ]
    chosen = list(range(first, len(TEXT)))
    with torch.no_grad():
        hidden = llama.model.embed_tokens(torch.tensor(TEXT))[chosen]
        for layer in range(4):
            old = [side.clone() for side in kv[layer]]
            rest = {1: -(-3 * count // 2), 2: count}.get(layer)
            after = read_again(llama, kv, hidden, chosen, layer)
            if rest is not None:
                gaps = sum(
                    ((new - was) ** 2).sum((0, 2)) for new, was in zip(kv[layer], old, strict=True)
                )
                best = sorted(gaps[chosen].argsort(descending=True)[:rest].tolist())
                chosen, after = [chosen[i] for i in best], after[best]
            hidden = after
    assert len(chosen) == count
    blended = fused(llama, tmp_path, share)
    assert_same(blended.kv, kv)
    alone = fused(llama, tmp_path, 0.0).kv
    changed = (blended.kv.v[3] - alone.v[3]).abs().amax((0, 2)) > 1e-9
    assert changed.nonzero().flatten().tolist() == chosen


@crossed(tier=["device", "disk"], drafter=["cacheblend", "ngram+cacheblend", "none"], warm=[0, 1])
def test_the_text_is_that_of_plain_decoding(engine, tmp_path, tier, drafter, warm):
    """Whatever the fused documents are wrong about; rows of one prompt, and of several."""
    kwargs = {"max_new_tokens": 9, "seed": 2, "temperature": 0.9 * warm}
    questions, samples = [QUESTION, [9]], 1 + warm
    whole = [TEXT + question for question in questions]
    want = engine.generate(whole, drafter="none", num_return_sequences=samples, **kwargs)
    folders = saved(engine, tmp_path)
    engine.target.kv_memory = KVMemory(tier, sizes=SMALL)
    options = {"recomputed_share": 0.05, "draft_width": 2} if "cacheblend" in drafter else {}
    out = engine.generate(
        questions, drafter=drafter, saved_documents=folders, num_return_sequences=samples,
        **options, **kwargs,
    )  # fmt: skip
    assert [g.token_ids for g in out] == [g.token_ids for g in want]
    assert all(g.lossless and g.num_prompt_tokens > len(TEXT) for g in out)
    if drafter == "cacheblend":
        assert sum(sum(g.stats.accepted) for g in out) > 0


@pytest.mark.parametrize("tier", ["device", "disk"])
def test_as_the_cache_itself(engine, tmp_path, tier):
    """Nothing but what is chosen goes through the model, and the text says that it is lossy."""
    folders = saved(engine, tmp_path)
    want = engine.generate(TEXT + QUESTION, drafter="none", max_new_tokens=8)
    engine.target.kv_memory = KVMemory(tier, sizes=SMALL)
    kwargs = {"max_new_tokens": 8, "saved_documents": folders, "view": "cacheblend"}
    exact = engine.generate(QUESTION, drafter="none", recomputed_share=1, **kwargs)
    assert exact.token_ids == want.token_ids and not exact.lossless
    assert exact.view == "cacheblend"
    plain = engine.generate([QUESTION, [9]], drafter="none", **kwargs)
    other = engine.generate([QUESTION, [9]], drafter="cacheblend", **kwargs)
    assert [g.token_ids for g in other] == [g.token_ids for g in plain]
    assert sum(other[0].stats.accepted) == sum(other[0].stats.drafted), "who reads the same, agrees"


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_provisional_text(engine, tmp_path, monkeypatch, temperature):
    """It is there before the target has read the documents, and the first round verifies it."""
    kwargs = {"max_new_tokens": 12, "seed": 4, "temperature": temperature}
    questions = [QUESTION, [9]]
    want = engine.generate([TEXT + q for q in questions], drafter="none", **kwargs)
    kwargs |= {"saved_documents": saved(engine, tmp_path)}
    read = []
    prefill = Target.prefill
    monkeypatch.setattr(
        Target, "prefill",
        lambda self, *args, **more: read.append(len(args[3])) or prefill(self, *args, **more),
    )  # fmt: skip
    stream = engine.stream(
        questions, drafter="cacheblend", draft_width=2, recomputed_share=1, **kwargs
    )
    found = stream.provisional(8)
    assert max(read) < 5, "nothing but the questions has been read"
    assert [one.token_ids for one in found] == [g.token_ids[:8] for g in want], "all is exact"
    first = next(stream)
    assert first.token_ids == want[0].token_ids[:9] and max(read) > LENGTHS[1]
    assert [g.token_ids for g in stream.run()] == [g.token_ids for g in want]
    stream = engine.stream(questions, drafter="cacheblend", recomputed_share=0, **kwargs)
    assert len(stream.provisional(10)[1].token_ids) == 10
    assert [g.token_ids for g in stream.run()] == [g.token_ids for g in want]
    with pytest.raises(InvalidArgument, match="once, and before the first step"):
        stream.provisional()
    with pytest.raises(InvalidArgument, match="drafter 'ngram' drafts from what the target has"):
        engine.stream(questions, drafter="ngram", **kwargs).provisional()
    with pytest.raises(InvalidArgument, match="give 1 to 255 tokens"):
        engine.stream(questions, drafter="cacheblend", **kwargs).provisional(0)


def test_few_tokens_are_read(engine, tmp_path, monkeypatch):
    """As many as the share says through all layers; the others through the first two."""
    read = Counter()

    def counts(name, tokens_of):
        was = getattr(Target, name)

        def counted(self, *args, **kwargs):
            read[self.num_layers] += len(tokens_of(args))
            return was(self, *args, **kwargs)

        monkeypatch.setattr(Target, name, counted)

    counts("read", lambda args: args[0][0])
    counts("prefill", lambda args: args[3])
    folders = saved(engine, tmp_path)
    read.clear()
    engine.generate(
        QUESTION, saved_documents=folders, view="cacheblend", drafter="none", max_new_tokens=2
    )
    count = 11  # 15 % of 71
    tried = 2  # single tokens that show how keys turn
    assert read == {2: LENGTHS[1] + LENGTHS[2], 3: 17, 4: tried + count + len(QUESTION) - 1}


def test_a_text_begins_once(engine, tmp_path):
    """The token that begins a text is left out of all documents but the first, and of the
    question; other tokens keep what they are."""
    bos = 39
    documents = [[bos, *document] for document in DOCUMENTS[:2]]
    folders = saved(engine, tmp_path, documents)
    joined = SavedDocuments(folders, bos)
    assert joined.tokens == [*documents[0], *DOCUMENTS[1]]
    assert (joined.starts, joined.skipped) == ([0, 24], [0, 1])
    assert joined.before(Prompt([bos, 7])).ids == [*joined.tokens, 7]
    assert SavedDocuments(folders[::-1], bos).tokens == [*documents[1], *DOCUMENTS[0]]
    assert SavedDocuments(folders).tokens == documents[0] + documents[1], "no such token: all kept"
    kv = FusedDocuments(joined, engine.target, 0.0).kv
    alone = stock(models.build("llama", num_hidden_layers=4), documents[1], 23)
    assert_same(kv, [(k[:, 1:], v[:, 1:]) for k, v in alone])
    engine.tokenizer = hostile.tokenizer(models.VOCAB)
    engine.tokenizer.bos_token_id = bos
    want = engine.generate([*joined.tokens, 7], drafter="none", max_new_tokens=6)
    out = engine.generate([bos, 7], saved_documents=folders, drafter="cacheblend", max_new_tokens=6)
    assert out.token_ids == want.token_ids


def test_what_cannot_be_is_refused(engine, tmp_path):
    folders = saved(engine, tmp_path)
    for kwargs, message in (
        ({"drafter": "cacheblend"}, "drafter 'cacheblend' needs saved_documents=: a list of"),
        ({"drafter": "ngram+cacheblend"}, "drafter 'cacheblend' needs saved_documents="),
        ({"view": "cacheblend"}, "view 'cacheblend' needs saved_documents="),
        ({"saved_documents": []}, r"saved_documents=\[\]: give a list of folders"),
        ({"saved_documents": [tmp_path]}, "saved_documents=.* holds no prompt.json"),
        ({"saved_documents": folders, "saved_prompt": folders[0]}, "exclude each other"),
        ({"saved_documents": folders, "recomputed_share": 0.1}, "no use for recomputed_share="),
        (
            {"saved_documents": folders, "drafter": "cacheblend", "recomputed_share": 1.5},
            r"recomputed_share=1.5 is outside \[0, 1\]",
        ),
    ):
        with pytest.raises(InvalidArgument, match=message):
            engine.generate(QUESTION, max_new_tokens=2, **kwargs)
    with pytest.raises(PromptTooLong, match="prompt 0 has 358 tokens"):
        engine.generate(QUESTION, max_new_tokens=2, saved_documents=folders * 5)


def test_what_cannot_be_moved_is_refused(engine, tmp_path):
    """Embeddings in place of tokens, in a document or in the question."""
    span = Span(1, torch.ones(2, 24, dtype=torch.float64))
    engine.save_prompt(Prompt([1, 2, 3, 4], [span]), tmp_path / "rich")
    with pytest.raises(InvalidArgument, match="rich'?, a prompt of more than token ids"):
        engine.generate(QUESTION, saved_documents=[tmp_path / "rich"], max_new_tokens=2)
    folders = saved(engine, tmp_path)
    with pytest.raises(InvalidArgument, match="take a question of token ids or text"):
        engine.generate(Prompt([1, 2, 3, 4], [span]), saved_documents=folders, max_new_tokens=2)


def test_one_document_is_exact(engine, tmp_path):
    folders = saved(engine, tmp_path)[:1]
    want = engine.generate(DOCUMENTS[0] + QUESTION, drafter="none", max_new_tokens=6)
    for view in ("full", "cacheblend"):
        out = engine.generate(
            QUESTION, saved_documents=folders, drafter="none", view=view, max_new_tokens=6
        )
        assert out.token_ids == want.token_ids


def test_another_models_documents_are_refused(engine, tmp_path):
    folders = saved(engine, tmp_path)
    other = Engine(models.build("llama", seed=1, num_hidden_layers=4))
    with pytest.raises(InvalidArgument, match="saved_documents=.*other weights"):
        other.generate(QUESTION, saved_documents=folders, max_new_tokens=2)


def test_keys_that_cannot_be_moved(engine, tmp_path, monkeypatch):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = Engine(models.build("llama", rope_parameters=rope))
    with pytest.raises(
        UnsupportedModel, match="keys of LlamaForCausalLM cannot be moved, because their"
    ):
        model.generate(
            QUESTION, saved_documents=saved(model, tmp_path / "dynamic"), drafter="cacheblend"
        )
    learned = Engine(t.GPT2LMHeadModel(t.GPT2Config(
        vocab_size=models.VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=99,
        bos_token_id=None, eos_token_id=None,
    )).eval())  # fmt: skip
    folders = saved(learned, tmp_path / "learned")
    whole = learned.generate(TEXT + QUESTION, max_new_tokens=4, drafter="none").token_ids
    out = learned.generate(QUESTION, saved_documents=folders, max_new_tokens=4)
    assert out.token_ids == whole, "read as one text"
    with pytest.raises(UnsupportedModel, match="GPT2LMHeadModel cannot be moved.*adds positions"):
        learned.generate(QUESTION, saved_documents=folders, view="cacheblend")
    folders = saved(engine, tmp_path / "wrong")
    monkeypatch.setattr(KeyRotation, "turn", lambda self, k, positions, layer: k)
    with pytest.raises(UnsupportedModel, match="layer 0, turned to another place, are not"):
        engine.generate(QUESTION, saved_documents=folders, view="cacheblend", max_new_tokens=2)
