"""A document is read once, and asked often: python examples/long_document.py [FILE]

Its keys and values stay in a folder, and older ones on disk while text is written.
"""

import sys
import tempfile
from pathlib import Path

from specdec import Engine

engine = Engine.from_pretrained("demo", kv_tier="disk")
document = Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else "The sky is blue. " * 20
with tempfile.TemporaryDirectory() as place:
    folder = Path(place) / "document"
    engine.save_prompt(document, folder)
    for question in (" What is blue?", " Is the sky green?"):
        out = engine.generate(document + question, saved_prompt=folder, max_new_tokens=16)
        print(question, "->", out.text)
        print(f"read in {out.stats.prefill_s:.2f} s")
