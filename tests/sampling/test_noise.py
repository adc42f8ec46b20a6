"""Philox and the noise made of it: known answers, independence, laws.

The seeds are fixed, so a test that passes once passes always; the odds below say how likely a
correct generator was to fail it on these seeds.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from specdec.kernels.sampling.philox import philox, uniform
from specdec.sampling.noise import Noise

ODDS = 1e-4  # of a false alarm, per statistical test


def first_block(key: int, counter: tuple[int, int, int, int]) -> list[int]:
    return philox(key, counter[1:], torch.tensor([counter[0]])).tolist()


def test_known_answers():
    """The test vectors of Random123, the authors' own implementation (philox4x32-10)."""
    ones = 0xFFFFFFFF
    assert first_block(0, (0, 0, 0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert first_block(2**64 - 1, (ones,) * 4) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    key = 0x299F31D0 << 32 | 0xA4093822
    assert first_block(key, pi) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_blocks_are_independent_of_how_many_are_asked_for():
    words = philox(5, (1, 2, 3), torch.arange(100))
    for block in (0, 1, 57, 99):
        assert first_block(5, (block, 1, 2, 3)) == words[4 * block : 4 * block + 4].tolist()
    for n in range(1, 9):
        assert torch.equal(uniform(5, (1, 2, 3), n, "cpu"), uniform(5, (1, 2, 3), 9, "cpu")[:n])


def test_keys_count_modulo_two_to_the_64():
    assert first_block(-1, (0, 0, 0, 0)) == first_block(2**64 - 1, (0, 0, 0, 0))
    assert first_block(2**32, (0, 0, 0, 0)) != first_block(0, (0, 0, 0, 0))


def test_uniform_is_open_and_uniform():
    numbers = uniform(1, (0, 0, 0), 200_000, "cpu")
    assert numbers.dtype == torch.float64 and numbers.min() > 0.0 and numbers.max() < 1.0
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > ODDS
    extremes = (torch.tensor([0, 2**32 - 1]).double() + 0.5) * 2.0**-32
    assert torch.isfinite(-torch.log(-torch.log(extremes))).all()


def test_distinct_places_have_distinct_words():
    """32-bit words of about 10,000 blocks collide in pairs, but no block repeats another's four."""
    keys = (0, 1, 2**32, 2**63)
    places = list(product(keys, range(6), range(6), range(3)))
    blocks = [philox(key, counter, torch.arange(24)).view(24, 4) for key, *counter in places]
    seen = {tuple(words) for words in torch.cat(blocks).tolist()}
    assert len(seen) == 24 * len(places)


def numbers_of(noise: Noise) -> dict[str, torch.Tensor]:
    """Every kind of noise that a generation may use at small positions, rounds and nodes."""
    found = {}
    for i in range(5):
        found[f"target {i}"] = noise.target(i, 8, "cpu")
        levels = {"": noise, "a": noise.inside("a", i), "b": noise.inside("b", i)}
        levels["ab"] = levels["a"].inside("b", i)
        for name, level in levels.items():
            assert torch.equal(level.target(i, 8, "cpu"), found[f"target {i}"])
            tests = level.tests(i)
            for use in range(5):
                u = torch.tensor([tests.uniform()], dtype=torch.float64)
                found[f"test {name} {i} {use}"] = -torch.log(-torch.log(u))
                found[f"draft {name} {i} {use}"] = level.draft(i, use, 8, "cpu")
                found[f"inner {name} {i} {use}"] = level.inner(i, use, 8, "cpu")
    return found


def test_no_two_uses_share_a_number():
    values: dict[float, str] = {}
    for seed, sample in product((0, 1, 12345), (0, 1)):
        for name, numbers in numbers_of(Noise(seed, sample)).items():
            for value in numbers.tolist():
                # 10,000 numbers of 32 bits: a pair in one run of 80, none on these seeds
                assert value not in values, (name, values[value])
                values[value] = f"{seed} {sample} {name}"


def test_noise_is_a_value():
    one, other = numbers_of(Noise(3, 1)), numbers_of(Noise(3, 1))
    for name, numbers in one.items():
        assert torch.equal(numbers, other[name])
    assert torch.equal(Noise(3).target(4, 100, "cpu")[:7], Noise(3).target(4, 7, "cpu"))


def test_neighbouring_streams_do_not_correlate():
    """Of 45 pairs of 10 streams none has |correlation| beyond its ODDS quantile (Bonferroni)."""
    n = 20_000
    noise, other = Noise(7), Noise(8)
    streams = [noise.target(position, n, "cpu") for position in range(4)]
    streams += [other.target(0, n, "cpu"), Noise(7, 1).target(0, n, "cpu")]
    streams += [noise.draft(0, node, n, "cpu") for node in range(2)]
    streams += [noise.draft(1, 0, n, "cpu"), noise.target(0, n + 4, "cpu")[4:]]
    ranks = torch.stack(streams).argsort(-1).argsort(-1).double()
    off = np.corrcoef(ranks.numpy())[np.triu_indices(len(streams), 1)]
    assert np.abs(off).max() < stats.norm.isf(ODDS / 2 / len(off)) / n**0.5


@pytest.mark.parametrize("draw", ["target", "draft", "tests"])
def test_gumbel_maximum_follows_the_law(draw: str):
    """Chi-squared over 2,000 places; a correct law fails with probability 1e-4."""
    p = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03, 0.0], dtype=torch.float64)
    counts = np.zeros(6)
    for place in range(2_000):
        noise = Noise(11)
        if draw == "target":
            token = int((p.log() + noise.target(place, 6, "cpu")).argmax())
        elif draw == "draft":
            token = int((p.log() + noise.draft(place, 3, 6, "cpu")).argmax())
        else:
            tests = noise.tests(place)
            tests.uniform()
            token = tests.draw(p)
        counts[token] += 1
    assert counts[5] == 0
    assert stats.chisquare(counts[:5], 2_000 * p[:5].numpy()).pvalue > ODDS


def test_tests_are_uniform_and_independent_of_each_other():
    """Pairs of consecutive numbers fill 8 x 8 cells evenly, within a round and across rounds."""
    numbers = []
    for round_ in range(1_000):
        tests = Noise(2).tests(round_)
        numbers += [tests.uniform() for _ in range(4)]
    cells = (np.array(numbers).reshape(-1, 2) * 8).astype(int)
    counts = np.bincount(cells[:, 0] * 8 + cells[:, 1], minlength=64)
    assert stats.chisquare(counts).pvalue > ODDS
    cells = (np.array(numbers[1:-1]).reshape(-1, 2) * 8).astype(int)
    counts = np.bincount(cells[:, 0] * 8 + cells[:, 1], minlength=64)
    assert stats.chisquare(counts).pvalue > ODDS


@pytest.mark.parametrize("seed", range(3))
def test_coupled_acceptance_has_its_closed_form(seed: int):
    """P(argmax(log p + g) = argmax(log q + g)) = sum over x of 1 / sum_j max(p_j/p_x, q_j/q_x)."""
    vocab, n = 5, 40_000
    random = np.random.default_rng(seed)
    p, q = (torch.from_numpy(random.dirichlet(np.ones(vocab))) for _ in range(2))
    ratios = torch.maximum(p / p[:, None], q / q[:, None])
    expected = float((1.0 / ratios.sum(-1)).sum())
    # Vectors of noise are cut from one long one; test_distinct_places has them all differ.
    gumbel = Noise(seed).target(seed, n * vocab, "cpu").view(n, vocab)
    same = (p.log() + gumbel).argmax(-1) == (q.log() + gumbel).argmax(-1)
    bound = stats.norm.isf(ODDS / 2) * (expected * (1 - expected) / n) ** 0.5
    assert abs(float(same.double().mean()) - expected) < bound
    assert expected <= float(torch.minimum(p, q).sum())  # no coupling beats 1 - TV
