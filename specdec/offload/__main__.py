"""`accelerate launch -m specdec.offload ...`: `specdec generate` in one process or several.

Every process holds its part of the model and makes the same text; the first one prints it. All of
them say what went wrong.
"""

from __future__ import annotations

import os
import sys

from specdec import ranks
from specdec.progress import is_speaker


def main() -> None:
    """Run `specdec generate` with the arguments of the command line."""
    if not is_speaker():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    from specdec.cli.app import app

    try:
        app(["generate", *sys.argv[1:]], prog_name="specdec.offload")
    finally:
        ranks.leave()


if __name__ == "__main__":
    main()
