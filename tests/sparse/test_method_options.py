"""Options of methods: what a method cannot take is refused, a short text is read whole."""

from __future__ import annotations

import pytest
import torch

from specdec import Engine
from specdec.errors import InvalidArgument

from helpers import hostile, models


@pytest.mark.parametrize(
    ("drafter", "options", "message"),
    [
        ("kvcrush", {"crush_share": 2}, r"crush_share=2 is outside \[0, 1\]"),
        ("kvcrush", {"crush_anchor": "one"}, "crush_anchor='one': give 'majority', 'ones'"),
        ("windowkv", {"window_task": "both"}, "window_task='both': give 'locate' or 'aggregate'"),
        ("defensive", {"by_output": 1}, "by_output=1: give True or False"),
        ("epicache", {"episodes": 0}, "episodes=0 is out of range"),
        ("ems", {"redundancy": "much"}, "redundancy='much' is outside"),
        ("snapkv", {"crush_share": 0.5}, "has no use for"),
        ("razor", {"calibration": "nowhere"}, "calibration='nowhere' cannot be read"),
        ("locret", {"calibration": "nowhere"}, "calibration='nowhere' cannot be read"),
        ("kvcrush", {"budget": 20}, r"budget=20 is below sink \+ recent \+ one page"),
        ("sentencekv", {"budget": 60}, r"budget=60 is below sink \+ recent \+ one page = 32 \+ 32"),
        ("louiskv", {"turn": 2}, r"turn=2 is outside \[-1, 1\]"),
        ("louiskv", {"calibration": "nowhere"}, "calibration='nowhere' cannot be read"),
        ("retrieval", {"estimated_share": -0.1}, r"estimated_share=-0.1 is outside \[0, 1\]"),
        ("retrieval", {"cluster_every": 8}, "cluster_every=8 is out of range"),
        ("leoam", {"prefilter": 2}, "has no use for"),
        ("mpcache", {"budget": 30}, r"budget=30 is below sink \+ recent \+ one page"),
    ],
)
def test_what_a_method_cannot_take_is_refused(drafter, options, message):
    model = models.build("llama", dtype=torch.float32)
    engine = Engine(model, hostile.tokenizer(models.VOCAB))
    with pytest.raises(InvalidArgument, match=message):
        engine.generate([1, 2, 3], drafter=drafter, max_new_tokens=2, **options)
