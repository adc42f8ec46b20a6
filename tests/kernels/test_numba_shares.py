"""Work divided among threads: everything is done once, by whoever has time."""

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

import numba
from numba import prange

from specdec.kernels.cpu.jit import OPTIONS, SERIAL, num_threads
from specdec.kernels.cpu.work_stealing import next_piece, num_shares, shares

pytestmark = pytest.mark.fast


@numba.njit(**OPTIONS)
def done_by(count):
    """Which thread did each piece, and how often each was done."""
    who, times = np.full(count, -1), np.zeros(count, np.int64)
    todo = shares(count)
    for thread in prange(num_shares(todo)):
        while True:
            piece = next_piece(todo, thread, count)
            if piece < 0:
                break
            who[piece] = thread
            times[piece] += 1
    return who, times


@numba.njit(**SERIAL)
def taken(count, order):
    """The pieces that threads get in this order."""
    out, todo = np.empty_like(order), shares(count)
    for i in range(len(order)):
        out[i] = next_piece(todo, order[i], count)
    return out


@pytest.fixture(autouse=True)
def own_threads():
    """As many threads as there are, whatever the suite has set."""
    num_threads()  # starts them
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


def use(threads):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("there are fewer threads here")
    numba.set_num_threads(threads)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 64, 1001])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_piece_is_done_once(count, threads):
    use(threads)
    who, times = done_by(count)
    assert (times == 1).all()
    assert ((who >= 0) & (who < threads)).all()


def test_a_thread_does_its_own_share_and_then_what_a_slow_one_has_left():
    use(2)
    order = np.array([0, 1, 1, 1, 1, 0, 1, 1, 0, 1])
    assert taken(7, order).tolist() == [0, 3, 4, 5, 6, 1, 2, -1, -1, -1]
