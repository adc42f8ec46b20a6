"""Formulas of the methods for images, against NumPy written from the papers."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.sampling.prompt import Prompt
from specdec.sampling.span import Span
from specdec.sparse.budgets.coverage import Coverage, covering
from specdec.sparse.codecs.base import Place
from specdec.sparse.codecs.by_range import ByRange
from specdec.sparse.codecs.grouped import TOKENS, Grouped
from specdec.sparse.codecs.sign_spectrum import SignSpectrum, from_spectrum, spectrum
from specdec.sparse.codecs.ternary import Ternary, pack3, unpack3
from specdec.sparse.importances.frame_means import frame_logits
from specdec.sparse.importances.seen_then_spread import seen_then_spread
from specdec.sparse.importances.stream import AHEAD, covered
from specdec.sparse.importances.text_first import text_first
from specdec.sparse.maths.frames import frames
from specdec.sparse.maths.merge_into_kept import (
    merge_into_kept,
    nearest_by_cosine,
    nearest_by_place,
)
from specdec.sparse.residues.base import Rest
from specdec.sparse.residues.merged_into_kept import MergedIntoKept

SEEDS = st.integers(0, 1 << 20)
AT = Place((0,), 2, torch.zeros(1, 1))


def t(x):
    return torch.from_numpy(np.asarray(x))


@given(SEEDS)
def test_text_comes_first_and_orders_stay(seed):
    rng = np.random.default_rng(seed)
    score, images = rng.normal(size=(2, 30)), rng.random(30) < 0.5
    made = text_first(t(score), t(images)).numpy()
    for before, after in zip(score, made, strict=True):
        if images.any() and not images.all():
            assert after[images].max() < after[~images].min()
        for part in (images, ~images):
            assert (np.argsort(before[part]) == np.argsort(after[part])).all()


@given(SEEDS, st.integers(1, 40), st.integers(0, 40), st.sampled_from([0.0, 0.4, 1.0]))
def test_seen_tokens_then_evenly_spaced_ones(seed, count, room, share):
    score = np.random.default_rng(seed).random(count)
    ranks = seen_then_spread(t(score), room, share).numpy()
    order = np.argsort(-score, kind="stable")
    mass = score[order].cumsum()
    needed = next(n for n in range(1, count + 1) if n == count or mass[n - 1] >= share * mass[-1])
    first = set(order[: min(room, needed)].tolist())
    assert set(np.flatnonzero(ranks >= 2).tolist()) == first
    left = [i for i in range(count) if i not in first]
    more = min(room - len(first), len(left))
    even = {left[round(i)] for i in np.linspace(0, len(left) - 1, more)} if more > 0 else set()
    assert set(np.flatnonzero(ranks == 1).tolist()) == even
    assert len(first) + len(even) == min(room, count)


@given(SEEDS, st.integers(1, 60), st.integers(1, 60))
def test_kept_tokens_are_from_all_over(seed, total, count):
    score = np.random.default_rng(seed).random(total)
    found = covered(t(score), count).tolist()
    assert found == sorted(set(found)) and len(found) == min(count, total)
    if count >= total:
        return
    order = np.argsort(-score, kind="stable")
    ahead = order[: round(AHEAD * count)].tolist()
    want, full = list(ahead), {i * count // total for i in ahead}
    for i in order[len(ahead) :]:
        if i * count // total not in full:
            full.add(i * count // total)
            want.append(int(i))
    want += [int(i) for i in order if i not in want]
    assert found == sorted(want[:count])


@given(SEEDS)
def test_merging_into_what_is_kept(seed):
    rng = np.random.default_rng(seed)
    k, kept = rng.normal(size=(2, 12, 4)), rng.random((2, 12)) < 0.4
    kept[:, 3] = True
    unit = k / np.linalg.norm(k, axis=-1, keepdims=True)
    for by_place in (False, True):
        want = k.copy()
        for h in range(2):
            keepers = np.flatnonzero(kept[h])
            parts = {p: [k[h, p]] for p in keepers}
            for i in np.flatnonzero(~kept[h]):
                if by_place:
                    p = min(keepers, key=lambda p: (abs(p - i), p))
                    parts[p].append(k[h, i])
                else:
                    p = max(keepers, key=lambda p: unit[h, i] @ unit[h, p])
                    parts[p].append((k[h, i] + k[h, p]) / 2)
            for p, several in parts.items():
                want[h, p] = np.mean(several, axis=0)
        into = nearest_by_place(t(kept)) if by_place else nearest_by_cosine(t(k), t(kept))
        made = merge_into_kept(t(k), t(kept), into, not by_place).numpy()
        np.testing.assert_allclose(made, want, atol=1e-12)
        entries = MergedIntoKept(by_place).entries(Rest(t(k), t(k), t(kept), t(kept) * 1.0))
        for h in range(2):
            real = entries.log_weight[h] == 0
            np.testing.assert_allclose(entries.k[h][real], want[h][kept[h]], atol=1e-12)
            assert (entries.log_weight[h][~real] == -torch.inf).all()


@given(SEEDS, st.floats(0.05, 1.0))
def test_layers_keep_what_covers_their_attention(seed, share):
    rng = np.random.default_rng(seed)
    scores = [rng.random((2, 20)) ** 4 for _ in range(3)]
    found = Coverage(share, least=2).tokens([0, 1, 2], 15, [t(x) for x in scores])
    for count, score in zip(found, scores, strict=True):
        mass = np.sort(score.mean(0))[::-1].cumsum()
        needed = int((mass < share * mass[-1] - 1e-12).sum()) + 1
        assert abs(count - min(15, max(2, min(20, needed)))) <= (0 if share < 0.999 else 20)
    assert covering(torch.zeros(0), 0.5) == 0


@given(SEEDS, st.integers(1, 17))
def test_a_spectrum_is_as_many_real_numbers(seed, n):
    x = np.random.default_rng(seed).normal(size=(3, n))
    made = spectrum(t(x)).numpy()
    assert made.shape == x.shape
    whole = np.fft.fft(x, norm="ortho")
    np.testing.assert_allclose(made[:, : n // 2 + 1], whole.real[:, : n // 2 + 1], atol=1e-12)
    np.testing.assert_allclose(made[:, n // 2 + 1 :], whole.imag[:, 1 : (n + 1) // 2], atol=1e-12)
    np.testing.assert_allclose(from_spectrum(t(made)), x, atol=1e-12)


@given(SEEDS, st.integers(1, 17))
def test_signs_of_a_spectrum(seed, n):
    x = np.random.default_rng(seed).normal(size=(2, 1, 6, n))
    parts = SignSpectrum().encode(t(x), AT, None)
    assert parts[0].shape[-1] == -(-n // 8)
    made = spectrum(t(x)).numpy()
    scale = np.abs(made).mean(-2, keepdims=True)
    want = from_spectrum(t(np.where(made >= 0, scale, -scale)))
    np.testing.assert_allclose(SignSpectrum().decode(parts, AT, None), want, atol=1e-12)


@given(SEEDS, st.integers(1, 17))
def test_three_values_a_number(seed, n):
    x = np.random.default_rng(seed).normal(size=(2, 1, 6, n))
    parts = Ternary().encode(t(x), AT, None)
    assert parts[0].shape[-1] == -(-n // 5)
    scale = np.abs(x).mean(-2, keepdims=True)
    want = np.where(x > scale / 2, scale, np.where(x < -scale / 2, -scale, 0))
    np.testing.assert_allclose(Ternary().decode(parts, AT, None), want, atol=1e-12)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=23))
def test_five_digits_in_a_byte(digits):
    packed = pack3(torch.tensor(digits, dtype=torch.uint8))
    assert packed.dtype == torch.uint8 and len(packed) == -(-len(digits) // 5)
    assert unpack3(packed)[: len(digits)].tolist() == digits


def test_channels_of_wide_range_have_two_bits():
    x = torch.randn(2, 1, 16, 8, dtype=torch.float64)
    x[..., [1, 4, 6, 7]] *= 10
    side = ByRange(Grouped(2, 16, TOKENS), SignSpectrum(), 0.5)
    learned = side.learn(x, AT)
    assert learned[0].tolist() == [1, 4, 6, 7]
    back = side.decode(side.encode(x, AT, learned), AT, learned)
    wide = Grouped(2, 16, TOKENS)
    alone = wide.decode(wide.encode(x[..., learned[0]], AT, None), AT, None)
    torch.testing.assert_close(back[..., learned[0]], alone)
    narrow = SignSpectrum()
    rest = narrow.decode(narrow.encode(x[..., learned[1]], AT, None), AT, None)
    torch.testing.assert_close(back[..., learned[1]], rest)


def test_frames_of_a_prompt():
    def span(start, length):
        return Span(start, torch.zeros(length, 4))

    plain = Prompt(list(range(10)), [span(1, 3), span(6, 2)])
    assert frames(plain, 8).tolist() == [-1, 0, 0, 0, -1, -1, 1, 1]
    assert frames(None, 3).tolist() == [-1] * 3
    times = torch.arange(10).expand(3, -1).clone()
    times[0, 1:4] = torch.tensor([1, 1, 2])
    timed = Prompt(list(range(10)), [span(1, 3)], times)
    assert frames(timed, 5).tolist() == [-1, 0, 0, 1, -1]
    long = Prompt(list(range(500)), [span(2, 450)])
    assert [int((frames(long, 500) == i).sum()) for i in range(3)] == [196, 196, 58]


@given(SEEDS)
def test_frames_by_their_mean_keys(seed):
    rng = np.random.default_rng(seed)
    k, q = rng.normal(size=(2, 9, 4)), rng.normal(size=(2, 4))
    of = np.array([-1, 0, 0, -1, 1, 1, 1, 2, -1])
    want = [np.sum(k[:, of == f].mean(1) * q) for f in range(3)]
    np.testing.assert_allclose(frame_logits(t(k), t(q), t(of)), want, atol=1e-12)
