"""Pictures and videos of a command line, as part of what a user says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdec.cli import console

if TYPE_CHECKING:
    from specdec.engine import Engine


def shown(engine: Engine, text: str, images: Sequence[Path], video: Path | None) -> Any:
    """The prompt of a user who shows these, and then says a text; towers see them now, once.

    A model that reads no videos is shown some frames as images, which is said.
    """
    from specdec.decoding.chat_images import FRAMES
    from specdec.decoding.prompt_images import with_images
    from specdec.vision.files import frames

    parts: list[dict[str, Any]] = [{"type": "image", "image": path} for path in images]
    if video is not None:
        processor = engine.processor
        if processor is None or getattr(processor, "video_processor", None) is not None:
            parts.append({"type": "video", "video": video})
        else:
            taken = frames(video, "--video", FRAMES)
            parts += [{"type": "image", "image": frame} for frame in taken]
            note = f"{type(processor).__name__} reads no videos here: {len(taken)} frames as images"
            console.err().print(note, style="dim", markup=False)
    parts.append({"type": "text", "text": text})
    with console.err().status("Looking at images"):
        return with_images([{"role": "user", "content": parts}], engine)
