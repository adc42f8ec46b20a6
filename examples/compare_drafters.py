"""Drafters on a text of yours: python examples/compare_drafters.py [FILE]"""

import sys
from pathlib import Path

from specdec import Engine

DRAFTERS = ("none", "ngram", "longspec", "auto")

engine = Engine.from_pretrained("demo")
text = Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else "one two three one two three one"
print(f"{'drafter':10} {'tokens/s':>9} {'tokens a pass':>14} {'accepted':>9}  same text")
want = None
for drafter in DRAFTERS:
    try:
        out = engine.generate(text, drafter=drafter, max_new_tokens=48)
    except ValueError as error:  # such as a trained drafter of another model
        print(f"{drafter:10} {error}")
        continue
    want = want or out.token_ids
    stats = out.stats
    print(
        f"{drafter:10} {stats.tokens_per_s:9.1f} {stats.mean_acceptance_length:14.2f} "
        f"{stats.draft_acceptance_rate:9.0%}  {out.token_ids == want}"
    )
