"""Batches of processes whose devices do not lie side by side in the mesh: nothing lost, doubled or
swapped. On real processes: tests/multiprocess/test_same_curve.py.
"""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest
from pair_batches import pair_batches

from scalingnote_jax.config import MeshConfig
from scalingnote_jax.data.batches import TextSampler
from scalingnote_jax.data.packing import texts_per_row
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import UserError
from scalingnote_jax.text.tokens import TokenTable

DOCS = 64


class Collection:
    """Query i is answered by document i; every document's tokens say which one it is."""

    doc_ids = tuple(f"d{i}" for i in range(DOCS))
    query_ids = tuple(f"q{i}" for i in range(DOCS))
    doc_groups = query_groups = np.arange(DOCS, dtype=np.int32)
    doc_text_groups = DOCS + doc_groups  # no document has a query's text

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        return {f"q{i}": {f"d{i}": 1} for i in range(DOCS)}


def table() -> TokenTable:
    return TokenTable.from_lists([[i + 1] * (1 + i % 7) for i in range(DOCS)])


def dealt(rows: int, process: int, processes: int) -> np.ndarray:
    """The rows of a process that has every n-th run of rows, two runs in all."""
    runs = np.arange(rows).reshape(2 * processes, -1)
    return runs[process::processes].ravel()


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_packed_documents_are_found_where_the_mesh_puts_them(processes: int) -> None:
    samplers = [
        pair_batches(
            Collection(),
            (table(), table()),
            ((8,), (4, 16)),
            batch_size=16,
            negatives_per_query=1,
            bucket_window=1,
            seed=0,
            index=i,
            count=processes,
            pack_rows_by=2,
            own_rows=partial(dealt, process=i, processes=processes),
        )
        for i in range(processes)
    ]
    for step in range(2):
        batches = [s.batch(step) for s in samplers]
        rows = processes * len(batches[0]["doc_tokens"])
        tokens, segments = np.zeros((2, rows, 16), np.int32)
        for i, batch in enumerate(batches):
            where = dealt(rows, i, processes)
            tokens[where], segments[where] = batch["doc_tokens"], batch["doc_segments"]
        seen = []
        for batch in batches:
            for doc, slot in zip(batch["doc_ids"].ravel(), batch["doc_slots"].ravel(), strict=True):
                row, number = divmod(int(slot), texts_per_row(16))
                text = tokens[row][segments[row] == number + 1]
                assert text.tolist() == [doc + 1] * (1 + doc % 7)
                seen.append((row, number))
        assert len(set(seen)) == 32, "each document has a place of its own"


@pytest.mark.parametrize("processes", [2, 4])
def test_texts_of_processes_are_disjoint_and_make_the_batch(processes: int) -> None:
    whole = TextSampler(table(), (8,), 16, 1, 0)
    parts = [TextSampler(table(), (8,), 16, 1, 0, i, processes) for i in range(processes)]
    for step in (0, 3, 5):
        rows = [part.batch(step)["rows"] for part in parts]
        assert [len(r) for r in rows] == [16 // processes] * processes
        np.testing.assert_array_equal(np.concatenate(rows), whole.batch(step)["rows"])
        assert len(set(np.concatenate(rows).tolist())) == 16


@pytest.mark.parametrize(
    "cfg",
    [MeshConfig(), MeshConfig(slice=2, fsdp=2), MeshConfig(tensor=8)],
    ids=["data", "slices", "tensor"],
)
def test_one_process_feeds_everything(cfg: MeshConfig) -> None:
    mesh = mesh_lib.make_mesh(cfg)
    assert mesh_lib.own_rows(mesh, 16).tolist() == list(range(16))
    assert mesh_lib.batch_part(mesh) == (0, 1)


def test_hosts_that_share_only_some_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2 hosts of 3 devices with tensor=2: the pair in the middle is one of each.
    runs = {0: [(0, 1), (1, 2)], 1: [(1, 2), (2, 3)]}
    monkeypatch.setattr(mesh_lib, "_runs", lambda mesh, rows: runs)
    mesh = mesh_lib.make_mesh(MeshConfig(tensor=2), jax.devices()[:6])
    with pytest.raises(UserError, match=r"--mesh.tensor: 2 on processes of 6 devices"):
        mesh_lib.batch_part(mesh)
