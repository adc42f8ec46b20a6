"""Triton reads its mode once: these run in processes of their own, from `test_triton.py`."""

import os

if not {"TRITON_INTERPRET", "SPECDEC_TRITON_CHECKS"} & set(os.environ):
    collect_ignore_glob = ["*"]
