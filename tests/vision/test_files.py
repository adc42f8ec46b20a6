"""Frames of videos and moving images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from specdec.errors import InvalidArgument
from specdec.vision.files import frames, image

from helpers import processors


def grey(x):
    return int(np.asarray(x).mean())


@pytest.fixture
def shades(tmp_path):
    """Thirty frames, from black on."""
    from PIL import Image

    every = [Image.new("RGB", (64, 48), (i * 8,) * 3) for i in range(30)]
    every[0].save(tmp_path / "a.png", save_all=True, append_images=every[1:])
    return every


def test_frames_are_evenly_spaced(shades, tmp_path):
    wanted = [round(i * 29 / 7) * 8 for i in range(8)]
    assert [grey(x) for x in frames(tmp_path / "a.png", "it", 8)] == wanted
    assert [grey(x) for x in frames(str(tmp_path / "a.png"), "it", 1)] == [0]
    assert len(frames(tmp_path / "a.png", "it", 50)) == 30
    assert frames([shades[0], tmp_path / "a.png"], "it", 1)[0] is shades[0]


def test_video_files_by_pyav(shades, tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in shades:
            out.mux(stream.encode(av.VideoFrame.from_image(shade)))
        out.mux(stream.encode())
    found = [grey(x) for x in frames(tmp_path / "film.mp4", "it", 8)]
    assert np.allclose(found, [round(i * 29 / 7) * 8 for i in range(8)], atol=6)
    (tmp_path / "bad.mp4").write_bytes(b"x" * 100)
    with pytest.raises(InvalidArgument, match="cannot be read as a video"):
        frames(tmp_path / "bad.mp4", "it", 8)


def test_what_is_no_video(tmp_path):
    (tmp_path / "a.gif").write_text("x")
    for given, message in (
        (tmp_path / "a.gif", "cannot be read as frames"),
        (tmp_path / "b.mp4", "there is no file"),
        (7, "give its frames as a list, or a path"),
        ([7], "frame 0 of it is a int"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            frames(given, "it", 8)
    assert image(processors.picture(), "it").size == (30, 20)


def test_addresses_and_arrays():
    for given in ("https://x.org/a.png", Path("https://x.org/a.png"), "data:image/png;base64,x"):
        with pytest.raises(InvalidArgument, match="nothing is fetched here"):
            image(given, "it")
    with pytest.raises(InvalidArgument, match="there is no file C:/a.png"):
        image("C:/a.png", "it")
    for shape in ((8, 8), (1, 1, 3, 8, 8), (0, 8, 3), (8, 8, 5)):
        with pytest.raises(InvalidArgument, match=r"give \[height, width, 3\]"):
            image(np.zeros(shape, dtype=np.uint8), "it")
