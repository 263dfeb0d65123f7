"""A sample of tests/bench/fuzz.py: damaged files for the parsers that start at once."""

from __future__ import annotations

import pytest
from fuzz_runs import damaged, run_target
from fuzz_targets import TARGETS

INPUTS = 60
QUICK = (
    "step marker and list of files", ".npy", "negatives", "vectors", "token table",
    "config of a workdir", "training records", "Hugging Face config", "safetensors index",
    "sentence-transformers", "GGUF", "tokenizer.json", "Parquet", "TREC run", "qrels", "JSONL",
)  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_damaged_files_end_in_one_line(name: str) -> None:
    found = run_target(TARGETS[name], INPUTS, seed=7)
    assert not found.faults, found.faults
    assert found.inputs == INPUTS
    assert found.refused or name == "training records", "the damage does damage"


def test_the_same_seed_gives_the_same_damage() -> None:
    import random

    first, again, other = (damaged(b'{"a": [1, 2]}', random.Random(s)) for s in (1, 1, 2))
    assert first == again != other
