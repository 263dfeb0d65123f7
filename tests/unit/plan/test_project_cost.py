"""What a project costs: every step by hand, on a slice of four chips whose steps are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from scalingnote_jax.config import (
    DecoderShape,
    DistillConfig,
    EncodeConfig,
    ExactConfig,
    MineConfig,
    RefineConfig,
    Stages,
    TextConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
    replace,
)
from scalingnote_jax.devices.chips import BY_NAME
from scalingnote_jax.models.flops import tower_flops
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.plan.project_cost import Amounts, Project, project_cost
from scalingnote_jax.plan.topology import Topology

SHAPE = DecoderShape(
    vocab_size=256, hidden_size=64, intermediate_size=128, num_layers=3, num_heads=4,
    num_kv_heads=2, head_dim=16,
)  # fmt: skip
TOWER = TowerConfig(
    weights="random", shape=SHAPE, projection=32, text=TextConfig(max_tokens=8, buckets=(8,))
)
PLAN = {"step_secs_range": [1.0, 2.0], "mfu_range": [0.25, 0.5], "checkpoint_bytes": 70}
ENCODE = {
    "batch": 10, "docs_per_sec": 10.0, "step_secs_range": [1.0, 1.5], "mfu_range": [0.1, 0.2],
}  # fmt: skip
PEAK = 4 * BY_NAME["v5e"].flops


@dataclass(frozen=True)
class FakeDevice:
    coords: tuple[int, int, int]


def four_chips() -> Topology:
    devices = [FakeDevice((i % 2, i // 2, 0)) for i in range(4)]
    return Topology("v5e:2x2", BY_NAME["v5e"], devices, 1, 1)


def project(rounds: tuple[str, ...] = ("none",), **changes: Any) -> Project:
    base = Project(
        teacher=TowersConfig(query=TOWER, doc=TOWER),
        train=TrainConfig(batch_size=100, duration="2 epochs"),
        mine=MineConfig(rounds=rounds),
        distill=DistillConfig(student=TOWER, batch_size=10, duration="3 epochs"),
        refine=RefineConfig(batch_size=10, duration=""),
        encode=EncodeConfig(),
        exact=ExactConfig(),
        stages=Stages.of("test", "1 epochs", "3 epochs", "", "random"),
    )
    return replace(base, **changes)


def steps_of(costs: dict[str, Any]) -> dict[str, Any]:
    return {row["step"]: row for row in costs["steps"]}


def test_trainings_and_encode_by_the_compiled_steps():
    costs = project_cost(project(), Amounts(950, 0, 7200, 2.0), PLAN, ENCODE, four_chips())
    rows = steps_of(costs)
    # Ten steps an epoch, the last one half full, in two epochs of steps of 1 to 2 s
    assert rows["train"]["amount"] == 2000
    assert rows["train"]["hours"] == pytest.approx([20 / 3600, 40 / 3600])
    assert rows["encode"]["hours"] == pytest.approx([0.2, 0.3])
    assert rows["encode"]["chip_hours"] == pytest.approx([0.8, 1.2])
    assert rows["encode"]["price"] == pytest.approx([1.6, 2.4])
    assert rows["exact search"]["hours"] is None  # nobody said of how many queries
    assert costs["total"]["chip_hours"] == pytest.approx([0.8 + 80 / 3600, 1.2 + 160 / 3600])


def test_stage_2_is_the_teachers_forward_and_the_students_training():
    student = replace(TOWER, shape=replace(SHAPE, num_layers=1))
    cfg = project(distill=replace(project().distill, student=student))
    row = steps_of(project_cost(cfg, Amounts(queries=500), PLAN, ENCODE, four_chips()))["distill"]
    assert row["amount"] == 1500
    forward = 500 * tower_flops(tower_def(TOWER), 1).model
    names = ("q", "k", "v", "o", "gate", "up", "down")
    learnt = [*(f"body/layers/{name}" for name in names), "projection"]
    training = 1500 * tower_flops(tower_def(student), 1, learnt).model
    # The forward pass at 20 to 10 % of the peak, as `encode`; the training at 50 to 25 %
    expected = [forward / 0.2 + training / 0.5, forward / 0.1 + training / 0.25]
    assert row["hours"] == pytest.approx([x / PEAK / 3600 for x in expected])


def test_stage_3_sees_every_query_of_its_epochs():
    cfg = project(
        refine=RefineConfig(batch_size=10, duration="2 epochs"),
        stages=Stages.of("test", "1 epochs", "3 epochs", "2 epochs", "random"),
    )
    rows = steps_of(project_cost(cfg, Amounts(queries=500), PLAN, ENCODE, four_chips()))
    assert rows["refine"]["amount"] == 1000
    without = project(stages=Stages.of("test", "1 epochs", "", "", "random"))
    rows = steps_of(project_cost(without, Amounts(queries=500), PLAN, ENCODE, four_chips()))
    assert not rows.keys() & {"distill", "refine"}


def test_exact_search_by_its_products_or_its_reads():
    queries, docs, dim = 512, 1_000_000, 32
    chip = BY_NAME["v5e"]
    amounts = Amounts(queries=queries, docs=docs)
    row = steps_of(project_cost(project(), amounts, PLAN, ENCODE, four_chips()))["exact search"]
    scores = queries * docs
    products = 2 * scores * dim * 6 / chip.flops  # six passes of bfloat16 for float32
    # Two blocks of 256 queries read all vectors; a score is written and read
    reads = (2 * docs * dim * 4 + 2 * 4 * scores) / chip.hbm_bytes_per_sec
    expected = [max(products, reads), products + reads]
    assert row["hours"] == pytest.approx([x / 4 / 3600 for x in expected])


def test_mining_by_the_teacher_encodes_and_searches():
    amounts = Amounts(pairs=950, queries=500, docs=7200)
    plain = steps_of(project_cost(project(), amounts, PLAN, ENCODE, four_chips()))
    mined = steps_of(
        project_cost(project(("none", "teacher")), amounts, PLAN, ENCODE, four_chips())
    )
    assert "mine" not in plain
    assert mined["train"]["amount"] == 2 * plain["train"]["amount"]
    forward = 500 * tower_flops(tower_def(TOWER), 1).model / (0.2 * PEAK) / 3600
    found = mined["exact search"]["hours"][0]
    assert mined["mine"]["hours"][0] == pytest.approx(0.2 + forward + found)


def test_bytes_on_disk():
    cfg = project(encode=EncodeConfig(store_dtype="int8", dim=16))
    disk = project_cost(cfg, Amounts(queries=50, docs=100), PLAN, ENCODE, four_chips())["disk"]
    assert disk == {
        "vector_bytes": 100 * (16 + 4),
        "vector_bytes_per_sec": 200.0,
        "teacher_query_bytes": 50 * 32 * 4,
        "checkpoint_bytes": 70,
    }
