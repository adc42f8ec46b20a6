"""Methods that go by a prompt: what they judge, choose and merge in a model, against NumPy over the
attention maps that transformers gives; and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from specdec import Engine
from specdec.decoding.cached_model import CachedModel
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.forward.plan import Needs
from specdec.forward.query_recorder import QueryRecorder
from specdec.sampling.tree import TokenTree
from specdec.sparse.fingerprint import fingerprint
from specdec.sparse.importances.episode_probe import EpisodeProbe
from specdec.sparse.importances.retained import RetainedNotes
from specdec.sparse.maths.output_projection import output_projection
from specdec.sparse.methods.compresskv import CompressKV
from specdec.sparse.methods.defensive import Defensive, LayerDefensive
from specdec.sparse.methods.duo import Duo
from specdec.sparse.methods.ems import EMS
from specdec.sparse.methods.epicache import EpiCache
from specdec.sparse.methods.kvcrush import KVCrush
from specdec.sparse.methods.locret import Locret
from specdec.sparse.methods.mpcache import MPCache
from specdec.sparse.methods.prefixkv import PrefixKV
from specdec.sparse.methods.razor import Razor
from specdec.sparse.methods.uncomp import UNComp
from specdec.sparse.methods.windowkv import WindowKV

from helpers.passes import make_row
from helpers.selected import TEXT, Run, S, best


@pytest.fixture(scope="module", params=["llama", "llama-mha"])
def run(request):
    return Run(request.param)


def smooth(x, width):
    half = width // 2
    parts = [x[..., max(0, t - half) : t + half + 1].mean(-1) for t in range(x.shape[-1])]
    return np.stack(parts, axis=-1)


def test_compresskv_reads_what_its_heads_look_at(run):
    draw = np.random.default_rng(0)
    needle, error = draw.random((2, run.maps[0][:, :, 0, 0].size)), [1.0, 3.0]
    made = run.measured(
        "compresskv", needle=lambda n: needle[n].tolist(), error=lambda n: [error[n]]
    )
    found = run.select(CompressKV(budget=50, calibration=made))
    for n in run.layers:
        heads = np.argsort(-needle[n])[:4]
        flat = run.maps[n].reshape(-1, S, S)
        votes = smooth(np.mean([flat[h][S - 8 :].sum(0) for h in heads], axis=0), 5)
        count = [32 + 9, 32 + 27][n]
        assert run.read(found[n]) == [best(votes, count, 0, 8)] * run.heads


def test_defensivekv_reads_the_worst_case(run):
    found = run.select(Defensive(budget=50))
    for n in run.layers:
        score = defended(run, n)
        forced = score.copy()
        forced[:, S - 32 :] = np.inf
        ranked = sorted((x, h) for h in range(run.heads) for x in sorted(forced[h])[::-1][10:])
        counts = [10] * run.heads
        for _, h in ranked[::-1][: 40 * run.heads]:
            counts[h] += 1
        want = [best(score[h], counts[h], 0, 32) for h in range(run.heads)]
        assert run.read(found[n]) == want


def test_layer_defensivekv_shares_over_layers(run):
    found = run.select(LayerDefensive(budget=60))
    scores = [defended(run, n) for n in run.layers]
    own = int(0.2 * (60 - 32))
    counts = np.full((len(scores), run.heads), own)
    rest = sorted(
        (x, n, h)
        for n, score in enumerate(scores)
        for h in range(run.heads)
        for x in np.sort(score[h])[::-1][own:]
    )
    for _, n, h in rest[::-1][: counts.size * (28 - own)]:
        counts[n, h] += 1
    for n in run.layers:
        wide = [len(x) for x in run.read(found[n])]
        assert wide == (counts[n] + 32).clip(max=S).tolist()


def defended(run, n):
    a = run.maps[n][:, :, S - 32 :]
    output = output_projection(run.target, n, a.shape[0] * a.shape[1], 8, "x").numpy()
    output = output.reshape(*a.shape[:2], 8, -1)
    norm = np.abs(np.einsum("htd,hgdc->hgtc", run.v[n], output)).sum(-1).mean(1)
    p = smooth(a, 5)
    p = p / p.sum(-1, keepdims=True) * a.sum(-1, keepdims=True)
    worst = p.max(axis=(1, 2))
    score = np.maximum(worst, worst.mean(-1, keepdims=True)) * norm / norm.sum(0)
    mean = a.mean(axis=(1, 2))
    first = np.zeros_like(score, bool)
    for h in range(len(score)):
        order = np.argsort(-mean[h], kind="stable")
        held = np.cumsum(mean[h][order])
        first[h, order[: np.argmax(held >= 0.9 * held[-1])]] = True
    return score + score.max() * first


def test_prefixkv_reads_by_probes_and_covers_layers_alike(run):
    found = run.select(PrefixKV(budget=50))
    at = np.arange(0, S, 10)
    shares = []
    for n in run.layers:
        count = np.array([(at >= t).sum() for t in range(S)]).clip(1)
        sums = (run.maps[n][:, :, at].sum(2) / count).mean(axis=(0, 1))
        read = run.read(found[n])[0]
        assert run.read(found[n]) == [best(sums, len(read), 1, 1)] * run.heads
        shares.append(np.sort(sums)[::-1].cumsum()[len(read) - 3] / sums.sum())
    assert sum(len(run.read(found[n])[0]) for n in run.layers) == 100
    assert abs(shares[0] - shares[1]) < 0.02


@pytest.mark.parametrize(("task", "window"), [("locate", 32), ("aggregate", 16)])
def test_windowkv_reads_windows_of_the_first_layer(run, task, window):
    found = run.select(WindowKV(budget=64, window_task=task))
    assert list(found) == [0]  # the group's first layer chooses for both
    tokens = run.maps[0][:, :, S - window :, :].sum(2).mean(axis=(0, 1))
    pages = tokens[: S // 8 * 8].reshape(-1, 8)
    score = np.sort(pages, axis=1)[:, ::-1][:, : 4 if task == "locate" else 8].mean(1)
    tail = S % 8
    want = best(score, (64 - tail) // 8, 0, -(-(32 - tail) // 8))
    assert [set(x) for x in found[0].pages.tolist()] == [want] * run.heads


def test_uncomp_gives_half_to_heads_whose_queries_are_alike(run):
    group = run.maps[0].shape[1]
    entropy = [h / 10 for h in range(run.heads) for _ in range(group)]
    made = run.measured("uncomp", entropy=lambda n: entropy)
    found = run.select(UNComp(budget=50, calibration=made))
    weight = np.where(np.arange(run.heads) < -(-run.heads // 2), 1, 2)
    for n in run.layers:
        votes = smooth(run.maps[n][:, :, S - 8 :].sum(2).mean(1), 7)
        counts = 8 + weight * run.heads * 42 // weight.sum()
        want = [best(votes[h], counts[h], 0, 8) for h in range(run.heads)]
        assert run.read(found[n]) == want


def test_kvcrush_replaces_a_fifth_by_representatives(run):
    found = run.select(KVCrush(budget=50, sink=4, recent=6))
    for n in run.layers:
        votes = smooth(run.maps[n][:, :, S - 8 :].sum(2).mean(1), 5)[:, 4 : S - 6]
        ranked = np.argsort(-votes, axis=1)
        bits = np.zeros(votes.shape, bool)
        for h in range(run.heads):
            bits[h, ranked[h, :40]] = True
        for h, read in enumerate(run.read(found[n])):
            inner = {t - 4 for t in read if 4 <= t < S - 6}
            assert len(read) == 50
            assert len(inner) == 40
            left = [t for t in range(votes.shape[1]) if not bits[h, t]]
            majority = bits[:, left].mean(axis=1) > 0.5
            order = sorted(left, key=lambda t: int((bits[:, t] != majority).sum()))
            picked = {order[i * len(order) // 8] for i in range(8)}
            assert inner == set(ranked[h, :32].tolist()) | picked


def test_ems_merges_what_is_redundant(run):
    found = run.select(EMS(budget=50, sink=4, recent=6, redundancy=0.3))
    for n in run.layers:
        a, at = run.maps[n], np.arange(0, S, 10)
        count = np.array([(at >= t).sum() for t in range(S)]).clip(1)
        overall, local = (a[:, :, at].sum(2) / count).sum(1), a[:, :, S - 32 :].sum(axis=(1, 2))
        score = np.maximum(
            overall / overall.mean(-1, keepdims=True), local / local.mean(-1, keepdims=True)
        )
        entries = found[n].entries
        assert found[n].pages.shape[1] == 0
        for h in range(run.heads):
            kept = best(score[h], 50, 4, 6)
            unit = [
                x[h] / np.linalg.norm(x[h], axis=1, keepdims=True) for x in (run.k[n], run.v[n])
            ]
            like = (unit[0] @ unit[0].T).clip(0) * (unit[1] @ unit[1].T).clip(0)
            ordered = sorted(kept)
            members = {c: 1 for c in ordered}
            for t in set(range(S)) - kept:
                c = max(ordered, key=lambda c, t=t: like[t, c])
                members[c] += like[t, c] > 0.3
            counts = sorted(entries.log_weight[h].exp().round().int().tolist())
            assert counts == sorted(members.values())


def test_razor_compensates_heads_that_do_not_look_far(run):
    group = run.maps[0].shape[1]
    first = [float(i < group) for i in range(run.heads * group)]  # the first KV head's
    made = run.measured("razor", induction=lambda n: first, echo=lambda n: first)
    share = 1 / run.heads
    found = run.select(Razor(budget=40, calibration=made, induction_heads=share, echo_heads=share))
    for n in run.layers:
        far, *others = run.read(found[n])
        window = set(range(4)) | set(range(S - 35, S))
        assert far == set(range(S))
        assert others == [window] * (run.heads - 1)
        left = sorted(set(range(S)) - window)
        entries = found[n].entries
        assert entries.log_weight[0].item() == -np.inf
        for h in range(1, run.heads):
            assert entries.log_weight[h].item() == pytest.approx(np.log(len(left)))
            np.testing.assert_allclose(entries.k[h, 0], run.k[n][h, left].mean(0), atol=1e-6)
            np.testing.assert_allclose(entries.v[h, 0], run.v[n][h, left].mean(0), atol=1e-6)


def test_duo_lets_heads_with_small_gates_stream(run):
    made = run.measured("duo", gate=lambda n: [float(h == n) for h in range(run.heads)])
    found = run.select(Duo(budget=40, sink=8, calibration=made, streaming_heads=1 - 1 / run.heads))
    window = set(range(8)) | set(range(S - 31, S))
    for n in run.layers:
        for h, read in enumerate(run.read(found[n])):
            assert read == (set(range(S)) if h == n else window)


def test_duo_streams_more_heads_where_they_are_not_grouped(run):
    made = run.measured("duo", gate=lambda n: [n + h / 10 for h in range(run.heads)])
    far = Duo(calibration=made).view(run.target).heads.far
    share = {2: 0.5, 4: 0.25}[run.heads]  # of four query heads
    assert sum(map(sum, far)) == share * run.heads * len(run.layers)


def test_duo_reads_gates_as_its_authors_ship_them(run, tmp_path):
    file = tmp_path / "full_attention_heads.tsv"
    file.write_text("\n".join("\t".join(["0.9", *["0.1"] * (run.heads - 1)]) for _ in run.layers))
    made = Duo(calibration=file).measured(run.target)
    assert [x["gate"][:2] for x in made.layers] == [[0.9, 0.1]] * len(run.layers)
    assert Duo(budget=40, sink=8, calibration=file).view(run.target).heads.far[0][0]
    file.write_text("0.9\t0.1\n")
    with pytest.raises(InvalidArgument, match="made for another model"):
        Duo(calibration=file).view(run.target)


def test_locret_reads_what_its_heads_foretell(run):
    method = Locret(budget=60, recent=10)
    heads = method.measured(run.target)
    found = run.select(method)
    assert all(len(read) == 60 for n in run.layers for read in run.read(found[n]))
    assert heads.fingerprint == fingerprint(run.target)


def test_locrets_scores_are_of_the_text_alone(run):
    """After rounds with rejections they are what a reading of the text gives."""
    engine, method = Engine(run.target.model), Locret(budget=40, recent=10)
    heads = method.measured(run.target)
    stream = engine.stream(
        TEXT[:60], drafter="locret", calibration=heads, budget=40, recent=10, max_new_tokens=30,
        eos_token_id=[], num_draft_tokens=4, temperature=1.0, seed=5,
    )  # fmt: skip
    while not next(stream).finish_reason:  # afterwards nothing is left of the text
        pass
    stats = stream.outputs[0].stats
    assert 0 < stats.num_accepted_draft_tokens < stats.num_draft_tokens
    store = stream.model.store
    kept, text = RetainedNotes.of(store, heads).rows[0], stream.rows[0].tokens[: store.length(0)]
    recorder = QueryRecorder.of(replace(method, calibration=heads).view(run.target).needs)
    again = CachedModel(run.target, FullView(), [make_row(0, [*text, 0])], recorder=recorder)
    fresh = RetainedNotes.of(again.store, heads).rows[0]
    assert len(text) > 80
    for n in run.layers:
        assert kept[n].shape == fresh[n].shape
        torch.testing.assert_close(kept[n], fresh[n], rtol=1e-5, atol=1e-5)


def test_locrets_of_two_calibrations_do_not_share_their_scores(run):
    """Beside one store each selects what it would select alone, whoever was shown the text last."""
    heads = Locret().measured(run.target)
    turned = tuple(pair and (pair[0], -pair[1]) for pair in heads.layers)
    methods = [
        Locret(budget=60, recent=10, calibration=made)
        for made in (heads, replace(heads, layers=turned))
    ]
    alone = [{n: run.read(x) for n, x in run.select(method).items()} for method in methods]
    assert alone[0] != alone[1]
    for order in (methods, methods[::-1]):
        views, row = {method: method.view(run.target) for method in order}, make_row(0, TEXT)
        recorder = QueryRecorder.of(Needs.all_of(view.needs for view in views.values()))
        base = CachedModel(run.target, FullView(), [row], recorder=recorder)
        for method, want in zip(methods, alone):
            draft = CachedModel(run.target, views[method], [row], base=base)
            draft.forward([row], [TokenTree.root(TEXT[-1])])
            assert {n: run.read(x) for n, x in draft.state.of(0).selections.items()} == want


def test_mpcache_reads_what_its_bound_says(run):
    """The choice of the first layer, which the second shares, by the draft's own query."""
    found = run.select(MPCache(budget=64))
    assert list(found) == [0]
    assert found[0].page_size == 16
    for row in found[0].pages.tolist():
        assert len(row) == len(set(row)) == (64 - S % 16) // 16
        assert {0, S // 16 - 1} <= set(row)


def test_epicache_probes_with_a_topics_pieces(run):
    """Pieces of two topics; the question is about the second, so its pieces' queries decide."""
    made = run.measured("epicache", similarity=lambda n: [0.5])
    found = run.select(EpiCache(budget=60, sink=2, recent=4, calibration=made, episode_tokens=16))
    assert all(sum(map(len, run.read(found[n]))) == 60 * run.heads for n in run.layers)
    table = torch.eye(40)
    probe = EpisodeProbe(lambda ids: table[list(ids)], None, piece=4, clusters=2, medoids=2)
    text = [1, 2, 3, 1] * 3 + [9, 8, 9, 7] * 3 + [1, 2, 1, 1] + [9, 9, 8, 7]
    assert set(probe.topic(text)) <= {3, 4, 5, 7}
    assert set(probe.topic(text[:-4])) <= {0, 1, 2, 6}


@pytest.mark.parametrize("method", [CompressKV, UNComp, Razor, Duo, EpiCache, Locret])
def test_another_models_calibration_is_refused(run, method, tmp_path):
    other = Run("qwen3").target
    made = method().measured(other)
    made.save(tmp_path / "file")
    with pytest.raises(InvalidArgument, match="made for another model"):
        method(calibration=tmp_path / "file").view(run.target)


def test_a_budget_below_its_fixed_parts_is_refused(run):
    with pytest.raises(InvalidArgument, match=r"budget=40 is below sink \+ recent \+ one page"):
        KVCrush(budget=40).view(run.target)
    with pytest.raises(InvalidArgument, match=r"budget=3 is below"):
        Razor(budget=3).view(run.target)
