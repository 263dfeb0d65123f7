"""A step in chunks, in accumulated parts and on packed documents, against the plain step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from run_parts import first_stage, pair_sampler

from scalingnote_jax.config import Config, MeshConfig, TextConfig, replace
from scalingnote_jax.config.load import load_config
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.dataset import build_dataset
from scalingnote_jax.data.packing import Part, fill, pack, texts_per_row
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import UserError
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.workflow.workdir import Workdir

MESHES = {
    "one": MeshConfig(data=1),
    "eight": MeshConfig(data=2, fsdp=2, tensor=2),
    "slices": MeshConfig(slice=2, data=1, fsdp=4),
}


@pytest.fixture(scope="module")
def config(tiny_config: Path) -> Config:
    """One layer; 32 queries × 2 documents a step, of 4 to 16 tokens; a batch is not sorted."""
    config = load_config(tiny_config)
    text = TextConfig(max_tokens=16, buckets=(4, 8, 16))
    towers = {
        side: replace(getattr(config.teacher, side), text=text, remat="full", num_layers=1)
        for side in ("query", "doc")
    }
    train = replace(config.train, batch_size=32, bucket_window=1)
    return replace(config, teacher=replace(config.teacher, **towers), train=train)


@pytest.fixture(scope="module")
def workdir(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    workdir = Workdir(tmp_path_factory.mktemp("parts"))
    build_dataset(config.data, workdir.data)
    return workdir


def one_step(config: Config, workdir: Workdir, mesh: str) -> tuple[TrainState, dict[str, float]]:
    """The state and the means of the metrics after step 0."""
    devices = jax.devices()[:1] if mesh == "one" else None
    made = mesh_lib.make_mesh(MESHES[mesh], devices)
    stage = first_stage(config, Collection.open(workdir.data), workdir, made)
    state = stage.prepared.place(stage.initial())
    state, metrics = stage.step(state, mesh_lib.put_batch(stage.sampler.batch(0), made))
    return state, {name: float(total / count) for name, (total, count) in metrics.items()}


def change(config: Config, **train: Any) -> Config:
    return replace(config, train=replace(config.train, **train))


@pytest.fixture(scope="module")
def plain(config: Config, workdir: Workdir) -> tuple[TrainState, dict[str, float]]:
    return one_step(config, workdir, "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "options"),
    [
        ("slices", {"encode_chunks": 4}),
        ("one", {"pack_documents": True}),
        ("eight", {"pack_documents": True, "encode_chunks": 2}),
    ],
    ids=str,
)
def test_the_same_step_in_another_way(
    config: Config, workdir: Workdir, plain: Any, mesh: str, options: dict[str, Any]
) -> None:
    state, metrics = one_step(change(config, **options), workdir, mesh)
    assert metrics == pytest.approx(plain[1], abs=1e-4)
    # Adam's first step is about ±learning_rate however small the gradient: compare the moments.
    expected, given = (jax.tree.leaves(s.opt_state[1][0].mu) for s in (plain[0], state))
    for a, b in zip(expected, given, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)


@pytest.mark.slow
def test_dropout_depends_on_neither_chunks_nor_mesh(
    config: Config, workdir: Workdir, plain: Any
) -> None:
    towers = {
        side: replace(getattr(config.teacher, side), dropout=0.2) for side in ("query", "doc")
    }
    dropped = replace(config, teacher=replace(config.teacher, **towers))
    expected, whole = one_step(dropped, workdir, "one")
    given, parts = one_step(change(dropped, encode_chunks=2), workdir, "eight")
    assert abs(whole["loss"] - plain[1]["loss"]) > 1e-3
    assert parts == pytest.approx(whole, abs=1e-4)
    for a, b in zip(
        *(jax.tree.leaves(s.opt_state[1][0].mu) for s in (expected, given)), strict=True
    ):
        np.testing.assert_allclose(b, a, atol=1e-5)


@pytest.mark.slow
def test_chunks_need_less_memory(config: Config, workdir: Workdir) -> None:
    def temporaries(chunks: int) -> int:
        mesh = mesh_lib.make_mesh(MESHES["one"], jax.devices()[:1])
        big = change(config, encode_chunks=chunks)
        stage = first_stage(big, Collection.open(workdir.data), workdir, mesh)
        batch = mesh_lib.put_batch(stage.sampler.batch(0), mesh)
        compiled = stage.step.lower(stage.prepared.abstract, batch).compile()  # type: ignore[attr-defined]
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(8) < 0.5 * temporaries(1)


@pytest.mark.slow
def test_accumulation_is_the_mean_over_parts(config: Config, workdir: Workdir, plain: Any) -> None:
    # Row i of a batch goes to part i mod 2, and has only the documents of its part as negatives.
    _, metrics = one_step(change(config, accumulate=2), workdir, "slices")
    assert metrics["negatives_per_query"] < 0.6 * plain[1]["negatives_per_query"]
    mesh = mesh_lib.make_mesh(MESHES["one"], jax.devices()[:1])
    stage = first_stage(config, Collection.open(workdir.data), workdir, mesh)
    halves = []
    for part in range(2):
        batch = {name: x[part::2] for name, x in stage.sampler.batch(0).items()}
        state = stage.prepared.place(stage.initial())
        halves.append(stage.step(state, mesh_lib.put_batch(batch, mesh))[1]["loss"])
    expected = np.mean([total / count for total, count in halves])
    assert metrics["loss"] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"encode_chunks": 3}, r"train\.batch_size"),
        ({"encode_chunks": 0}, r"train\.encode_chunks"),
        ({"accumulate": 5}, r"train\.batch_size"),
        ({"accumulate": 2, "pack_documents": True}, r"train\.accumulate"),
    ],
)
def test_parts_that_do_not_divide_are_refused(
    config: Config, workdir: Workdir, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(UserError, match=field):
        one_step(change(config, **options), workdir, "one")


def test_packing_by_hand() -> None:
    # Longest first, each where the least room is left: 7 | 5+3 | 4+2+1.
    packing = pack(np.array([1, 5, 7, 3, 4, 2]), row_length=8, per_row=3)
    assert packing.num_rows == 3
    assert packing.rows.tolist() == [0, 1, 0, 1, 2, 2]
    assert packing.starts.tolist() == [7, 0, 0, 5, 0, 4]
    assert packing.numbers.tolist() == [2, 1, 1, 2, 1, 2]
    table = TokenTable.from_lists([[9], [1, 2, 3, 4, 5], [6] * 7, [7, 8, 9], [1] * 4, [2, 3]])
    tokens, segments = fill(table, np.arange(6), packing, 4, 8)
    assert tokens[0].tolist() == [6, 6, 6, 6, 6, 6, 6, 9]
    assert segments[0].tolist() == [1, 1, 1, 1, 1, 1, 1, 2]
    assert tokens[1].tolist() == [1, 2, 3, 4, 5, 7, 8, 9]
    assert segments[2].tolist() == [1, 1, 1, 1, 2, 2, 0, 0]
    assert not segments[3].any()


def test_packing_keeps_to_the_most_texts_of_a_row() -> None:
    packing = pack(np.ones(10, np.int64), row_length=8, per_row=4)
    assert packing.num_rows == 3
    assert np.bincount(packing.rows).tolist() == [4, 4, 2]
    assert texts_per_row(256) == 32


def test_processes_agree_on_packed_rows(config: Config, workdir: Workdir) -> None:
    """The slices of two processes, side by side, are one batch: every document is found."""
    packed = change(config, pack_documents=True)
    collection = Collection.open(workdir.data)
    mesh = mesh_lib.make_mesh(MESHES["one"], jax.devices()[:1])
    whole = pair_sampler(packed, collection, workdir, mesh)
    parts = [pair_sampler(packed, collection, workdir, mesh) for _ in range(2)]
    for i, sampler in enumerate(parts):
        sampler._part, sampler._slices = Part(i, 2, 1), [slice(0, 16), slice(16, 32)]
    batch, halves = whole.batch(0), [sampler.batch(0) for sampler in parts]
    assert halves[0]["doc_tokens"].shape == halves[1]["doc_tokens"].shape
    joined = {name: np.concatenate([half[name] for half in halves]) for name in batch}

    def documents(batch: dict[str, np.ndarray]) -> list[list[int]]:
        row, number = np.divmod(batch["doc_slots"].ravel(), texts_per_row(16))
        return [
            batch["doc_tokens"][r][batch["doc_segments"][r] == n + 1].tolist()
            for r, n in zip(row, number, strict=True)
        ]

    assert documents(joined) == documents(batch)
    np.testing.assert_array_equal(joined["doc_ids"], batch["doc_ids"])
    assert all(documents(batch))
