"""A trace of some steps, the FLOPs of a batch, and the share of the peak in the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import make_stage

from scalingnote_jax.config import DecoderShape, TextConfig, TowerConfig, TowersConfig, TrainConfig
from scalingnote_jax.config import replace as changed
from scalingnote_jax.devices.chips import BY_NAME
from scalingnote_jax.models.flops import batch_flops, step_flops
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.train import loop
from scalingnote_jax.train.log.profiling import PROFILE, Trace, peak_flops


@pytest.fixture
def three_steps(tmp_path: Path) -> Iterator[Path]:
    PROFILE.steps, PROFILE.folder = 3, tmp_path / "profile"
    yield PROFILE.folder
    PROFILE.steps, PROFILE.folder = 0, Path()


def run(trace: Trace, start: int, total: int) -> list[int]:
    """The steps at whose end a trace was running."""
    traced = []
    for step in range(start + 1, total + 1):
        with trace.step(step):
            result = jnp.ones(4) * step
        if trace.running:
            traced.append(step)
        trace.after(step, result)
    return traced


def files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.xplane.pb"))


def test_some_steps_are_traced_after_the_first_ones(three_steps: Path):
    assert run(Trace("train", 100, 120), 100, 120) == [111, 112, 113]
    assert len(files(three_steps / "train")) == 1


def test_a_short_training_is_traced_at_its_end(three_steps: Path):
    assert run(Trace("distill", 0, 5), 0, 5) == [3, 4, 5]
    assert run(Trace("refine", 4, 6), 4, 6) == [5, 6]
    assert len(files(three_steps)) == 2


def test_a_stop_ends_the_trace(three_steps: Path):
    trace = Trace("train", 0, 20)
    run(trace, 0, 11)
    assert trace.running
    trace.close()
    assert not trace.running
    assert files(three_steps)


def test_nothing_is_traced_unless_asked(tmp_path: Path):
    assert run(Trace("train", 0, 20), 0, 20) == []


SHAPE = DecoderShape(
    vocab_size=256, hidden_size=64, intermediate_size=128, num_layers=3, num_heads=4,
    num_kv_heads=2, head_dim=16,
)  # fmt: skip


def test_a_batch_of_shorter_texts_has_fewer_flops():
    tower = TowerConfig(
        weights="random", shape=SHAPE, projection=32, text=TextConfig(max_tokens=8, buckets=(4, 8))
    )
    cfg = TrainConfig(batch_size=12)
    trained = ["query/body/layers/q", "query/projection", "doc/body/layers/q"]

    def step(length: int) -> int:
        cut = changed(tower, text=TextConfig(max_tokens=length, buckets=(length,)))
        return step_flops(cfg, Towers(TowersConfig(query=cut, doc=cut)), trained).model

    count = batch_flops(cfg, Towers(TowersConfig(query=tower, doc=tower)), trained)
    for length in (4, 8):
        batch = {
            "query_tokens": np.zeros((3, length), np.int32),
            "doc_tokens": np.zeros((3, 1, length), np.int32),
        }
        assert count(batch, 4) == step(length)  # four processes feed three rows each
    assert step(4) < step(8)


def test_the_log_says_how_near_the_peak_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "peak_flops", lambda mesh: 5e12)
    stage = changed(make_stage(tmp_path), flops=lambda batch, parts: int(1e12))
    loop.fit(stage)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        assert record["mfu"] == pytest.approx(record["tflops_per_sec"] / 5, abs=1e-3)
        per_step = record["examples_per_sec"] / record["tflops_per_sec"]
        assert per_step == pytest.approx(stage_batch(stage), rel=0.01)  # 1 TFLOP a step


def stage_batch(stage: loop.Stage) -> int:
    return len(next(iter(stage.sampler.batch(0).values())))


@dataclass(frozen=True)
class FakeDevice:
    device_kind: str
    coords: tuple[int, int, int]


@dataclass
class FakeMesh:
    devices: np.ndarray


def test_the_peak_of_a_mesh():
    four = [FakeDevice("TPU v5 lite", (x, y, 0)) for x in (0, 1) for y in (0, 1)]
    assert peak_flops(FakeMesh(np.array(four))) == 4 * BY_NAME["v5e"].flops
    two_of_a_chip = [FakeDevice("TPU7x", (0, 0, z)) for z in (0, 1) for _ in range(2)]
    assert peak_flops(FakeMesh(np.array(two_of_a_chip))) == 2 * BY_NAME["tpu7x"].flops
    assert peak_flops(FakeMesh(np.array(jax.devices()[:1]))) == 0
