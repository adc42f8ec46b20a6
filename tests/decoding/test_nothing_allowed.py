"""Where no token can be chosen: an error with row, position and processor, under every rule."""

from __future__ import annotations

import math

import pytest
import torch

from specdec import Engine
from specdec.errors import InvalidArgument, NothingAllowed
from specdec.kernels.sampling.verify_trees import traverse_trees
from specdec.sampling import device_verify
from specdec.sampling.tree import Law, TokenTree
from specdec.sampling.verify import traversal, walk

from helpers import hostile, models

INF, NAN = math.inf, math.nan
SAMPLED = {"temperature": 1.0, "seed": 1}
RULES = {
    "greedy": {},
    "coupled": SAMPLED,
    "rejection": {**SAMPLED, "acceptance": "rejection"},
}


@pytest.fixture(scope="module")
def llama():
    return Engine(models.build("llama", dtype=torch.float64))


@pytest.fixture(scope="module")
def draft():
    return models.build("llama", dtype=torch.float64, seed=7)


def from_the(position, value, tokens=slice(None)):
    """A processor that spoils the scores of some tokens from a position on."""

    def spoil(ids, scores):
        scores = scores.clone()
        if ids.shape[1] >= position:
            scores[:, tokens] = value
        return scores

    return spoil


def drafted(name, draft):
    return {
        "none": {"drafter": "none"},
        "ngram": {"drafter": "ngram"},
        "model": {"drafter": "model", "draft_model": draft, "draft_width": 2},
        "bushy": {"drafter": hostile.Bushy},
    }[name]


@pytest.mark.parametrize("drafter", ["none", "ngram", "model", "bushy"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("value", "tokens", "words"),
    [(-INF, slice(None), "all scores are -inf"), (NAN, 3, "NaN"), (INF, slice(4, 6), r"\+inf")],
    ids=["forbidden", "nan", "inf"],
)
def test_an_error_names_row_position_and_processor(
    llama, draft, drafter, rule, value, tokens, words
):
    chain = [lambda ids, scores: scores, from_the(6, value, tokens)]
    with pytest.raises(NothingAllowed, match=rf"row 0, position 6: .*{words}.*from_the.*spoil"):
        llama.generate(
            [1, 2, 3, 1], logits_processor=chain, max_new_tokens=8, eos_token_id=[],
            **RULES[rule], **drafted(drafter, draft),
        )  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_the_row_of_a_batch_is_named(llama, rule):
    def second(ids, scores):
        return scores * NAN if ids[0, 0] == 7 else scores

    with pytest.raises(NothingAllowed, match="row 1, position 2"):
        llama.generate(
            [[1, 2, 3], [7, 8]], logits_processor=[second], max_new_tokens=3, **RULES[rule]
        )


@pytest.mark.parametrize("rule", RULES)
def test_what_a_later_processor_mends_is_no_fault(llama, rule):
    """As remove_invalid_values does it; one score of +inf is an argmax, but no law."""
    how = {"max_new_tokens": 4, "eos_token_id": [], **RULES[rule]}
    mended = [lambda i, s: s * NAN, lambda i, s: torch.nan_to_num(s)]
    assert len(llama.generate([1, 2], logits_processor=mended, **how).token_ids) == 4
    forced = [from_the(0, INF, 9)]
    if rule == "greedy":
        assert llama.generate([1, 2], logits_processor=forced, **how).token_ids == [9] * 4
    else:
        with pytest.raises(NothingAllowed, match=r"\+inf"):
            llama.generate([1, 2], logits_processor=forced, **how)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_model_that_gives_no_numbers_is_told(rule, dtype):
    """With the fused head of a CPU, too, which makes no logits."""
    model = models.build("llama", dtype=dtype, head_dim=16)
    torch.nn.init.constant_(model.model.embed_tokens.weight[5:6], NAN)
    engine = Engine(model)
    assert dtype is torch.float64 or engine.target.head is not None
    for drafter in ("none", "ngram"):
        with pytest.raises(NothingAllowed, match="row 0, position 3.*the model"):
            engine.generate([1, 2, 5], drafter=drafter, max_new_tokens=4, **RULES[rule])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_one_score_of_the_head_that_is_no_number(rule, dtype):
    """The hidden state is whole, and so are all other scores."""
    model = models.build("llama", dtype=dtype, head_dim=16, tie_word_embeddings=False)
    torch.nn.init.constant_(model.lm_head.weight[7:8], NAN)
    with pytest.raises(NothingAllowed, match="row 0, position 2.*the model"):
        Engine(model).generate([1, 2], drafter="none", max_new_tokens=4, **RULES[rule])


@pytest.mark.parametrize("drafter", ["model", "bushy", "ngram"])
@pytest.mark.parametrize("rule", RULES)
def test_a_branch_where_nothing_is_allowed_fails_nobody(llama, draft, drafter, rule):
    """Only the text itself can be stuck: token 3 may be followed by nothing, and never comes."""

    def fragile(ids, scores):
        scores = scores.clone()
        scores[:, 3] = -INF
        return scores * NAN if int(ids[0, -1]) == 3 else scores

    how = {"max_new_tokens": 12, "eos_token_id": [], "logits_processor": [fragile], **RULES[rule]}
    want = llama.generate([1, 2, 4, 1, 2], drafter="none", **how)
    got = llama.generate([1, 2, 4, 1, 2], **how, **drafted(drafter, draft))
    assert 3 not in got.token_ids and len(got.token_ids) == 12
    if rule != "rejection":
        assert got.token_ids == want.token_ids


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda s: None, "None"), (lambda s: s[:, :10], "shape"), (lambda s: 3.0, "float"),
        (lambda s: s.argmax(-1, keepdim=True), "int64"), (lambda s: s[0], "shape"),
        (lambda s: (s > 0), "bool"),
    ],
)  # fmt: skip
def test_a_processor_that_returns_something_else_is_named(llama, returned, words):
    class Odd:
        def __call__(self, ids, scores):
            return returned(scores)

    with pytest.raises(InvalidArgument, match=f"logits processor Odd returned .*{words}"):
        llama.generate([1, 2], logits_processor=[Odd()], max_new_tokens=2)


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=str)
def either(request):
    return Engine(models.build("llama", dtype=request.param))


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-45, 1e-39, 1e-31, 1e-20])
def test_the_coldest_temperatures_are_greedy(either, temperature, draft):
    want = either.generate([1, 2], max_new_tokens=8, eos_token_id=[]).token_ids
    for how in ({}, {"acceptance": "rejection", "drafter": "model", "draft_model": draft}):
        got = either.generate(
            [1, 2], temperature=temperature, seed=3, max_new_tokens=8, eos_token_id=[], **how
        )
        assert got.token_ids == want


@pytest.mark.parametrize("temperature", [1e38, 1e300])
def test_at_the_hottest_every_token_is_as_likely(either, temperature):
    """But for one that is forbidden."""
    hot = either.generate(
        [1, 2], temperature=temperature, seed=3, max_new_tokens=200, eos_token_id=[],
        suppress_tokens=[7],
    )  # fmt: skip
    assert len(hot.token_ids) == 200 and set(hot.token_ids) == set(range(40)) - {7}


def test_penalties_beyond_float32_forbid():
    llama = Engine(models.build("llama", dtype=torch.float32))
    with pytest.raises(InvalidArgument, match="frequency_penalty"):
        llama.generate([1, 2], frequency_penalty=1e39, max_new_tokens=2)
    for name in ("frequency_penalty", "presence_penalty"):
        out = llama.generate([1, 2], **{name: 3.4e38}, max_new_tokens=30, eos_token_id=[])
        assert len(set(out.token_ids)) == 30
    # twice as much is minus infinity, so nothing is left once all have been said twice
    with pytest.raises(NothingAllowed, match=r"position 82: every token is forbidden"):
        llama.generate([1, 2], frequency_penalty=3e38, max_new_tokens=90, eos_token_id=[])


def test_everything_suppressed(llama):
    for rule in RULES.values():
        with pytest.raises(NothingAllowed, match="Suppress"):
            llama.generate([1, 2], suppress_tokens=list(range(40)), max_new_tokens=2, **rule)


# -- the rules by themselves -----------------------------------------------------------------------


def forbidden_draft():
    """A draft token drawn where the target's law is no number."""
    tree = TokenTree.root(0)
    draft = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    tree.add(0, 1, Law.DRAW, "draft")
    tree.draft_probs[0] = draft
    return tree


def test_a_law_that_is_no_number_keeps_no_draft():
    """`min(1.0, nan)` is 1.0: a rule that says so keeps what is forbidden."""
    tree = forbidden_draft()
    law = torch.full((3,), NAN, dtype=torch.float64)
    verdict = traversal(tree, lambda node: law, lambda: 0.5, lambda p: 2)
    assert verdict.path == [0]
    target = law.expand(1, 2, 3).clone()
    draft = torch.zeros(1, 2, 3, dtype=torch.float64)
    draft[0, 0] = tree.draft_probs[0]
    paths, _ = traverse_trees.plain(
        target, draft, torch.tensor([[0, 1]]), torch.tensor([[-1, 0]], dtype=torch.int32),
        torch.tensor([[0, int(Law.DRAW)]], dtype=torch.int32), torch.tensor([[0.5]]).double(),
    )  # fmt: skip
    assert paths.tolist() == [[0, -1]]


def test_walk_stops_where_choosing_fails():
    def choose(node):
        raise NothingAllowed("here")

    with pytest.raises(NothingAllowed):
        walk(TokenTree.chain(0, [1, 2]), choose)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("value", "bad"), [(NAN, slice(None)), (NAN, 3), (-INF, slice(None))], ids=str
)
@pytest.mark.parametrize("warped", [{}, {"top_k": 5, "min_p": 0.1}], ids=["raw", "warped"])
def test_on_a_device(llama, rule, value, bad, warped, monkeypatch):
    """The device's own verification, on the host's tensors: plain twins of its kernels, of which
    those that choose and warp pass over NaN, as their Triton versions do."""
    from specdec.decoding.drafting import make_drafter
    from specdec.decoding.request import Request
    from specdec.decoding.stream import GenerationStream

    def deaf(op):
        return lambda scores, *given: op(scores.nan_to_num(-INF, INF, -INF), *given)

    monkeypatch.setattr(device_verify, "has_kernels", lambda logits: True)
    monkeypatch.setattr(device_verify, "choose_tokens", deaf(device_verify.choose_tokens))
    monkeypatch.setattr(device_verify, "warp_scores", deaf(device_verify.warp_scores))
    forward = type(llama.target).forward

    def spoilt(self, tokens, pass_):
        logits = forward(self, tokens, pass_)
        if int(pass_.positions.max()) >= 5:
            logits[pass_.positions >= 5, bad] = value
        return logits

    monkeypatch.setattr(type(llama.target), "forward", spoilt)
    request = Request.parse(
        llama,
        [1, 2, 3],
        {"max_new_tokens": 8, "drafter": "ngram", "eos_token_id": [], **RULES[rule], **warped},
    )
    stream = GenerationStream(llama.target, request, make_drafter(llama.target, request, None))
    with pytest.raises(NothingAllowed, match="row 0, position 6"):
        stream.run()
