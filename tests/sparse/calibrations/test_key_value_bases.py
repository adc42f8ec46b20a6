"""Directions of keys and values: the best of their rank, and files of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specdec import Engine
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.sparse.calibrations.finding import bases_of, measured, sample
from specdec.sparse.calibrations.key_value_bases import KeyValueBases, measure_bases
from specdec.sparse.maths.key_rotation import KeyRotation

from helpers import models

TOKENS = [(7 * i * i + 3) % 40 for i in range(60)]


@torch.inference_mode()
def test_no_map_of_that_rank_is_nearer():
    """The projection is the SVD's of what the text's keys before rotation, and values, are."""
    target = Engine(models.build("qwen3")).target
    bases = measure_bases(target, TOKENS, "some words")
    store = target.new_store(1, 60)
    target.prefill(store, FullView(), 0, TOKENS)
    rotation = KeyRotation.of(target, "x")
    for part, held in enumerate((store.levels[0].k, store.levels[0].v)):
        x = held[1][0, :, :60]
        if part == 0:
            x = rotation.turn_back(x, torch.arange(60), 1)
        flat = x.transpose(0, 1).flatten(1).numpy()
        u, s, vt = np.linalg.svd(flat, full_matrices=False)
        for rank in (1, 4, 12):
            p = bases.of(part)[1][:, :rank].double().numpy()
            best = (u[:, :rank] * s[:rank]) @ vt[:rank]
            np.testing.assert_allclose(flat @ p @ p.T, best, atol=1e-4)


def test_files_are_read_and_others_refused(tmp_path):
    target = Engine(models.build("gemma3", dtype=torch.float32)).target
    made = measured(target, "cskv", sample(target, None))
    made.save(tmp_path / "a")
    back = bases_of(target, str(tmp_path / "a"))
    assert back.text == "random tokens" and set(back.of(0)) == set(target.full_layers)
    for layer, basis in back.of(1).items():
        torch.testing.assert_close(basis, made.of(1)[layer], rtol=0, atol=1e-3)
    assert bases_of(target, back) is back
    KeyValueBases("other", "", back.layers).save(tmp_path / "b")
    cut = [None] * len(back.layers)
    KeyValueBases(back.fingerprint, "", tuple(cut)).save(tmp_path / "c")
    (tmp_path / "d").write_bytes(b"x" * 100)
    for name, reason in (("b", "another model"), ("c", "cut or changed"), ("d", "cannot be read")):
        with pytest.raises(InvalidArgument, match=reason):
            bases_of(target, tmp_path / name)
