"""Every option of stages 1 to 3 changes what it says: the program of a step, the batches, the
schedule, the texts or the first weights. What a step computes is compared as its jaxpr, which has
every number of the config in it; nothing is compiled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_parts import first_stage

from scalingnote_jax.config import Config, MeshConfig, RefineConfig, TextConfig, replace
from scalingnote_jax.config.load import load_config
from scalingnote_jax.config.validate import validate
from scalingnote_jax.config.values import field_values
from scalingnote_jax.data.augment.query_texts import epoch_rows, query_texts
from scalingnote_jax.data.batches import TextSampler
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.dataset import build_dataset
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.train.prepare import make_schedule
from scalingnote_jax.train.stage2 import distill_step, prepare_student
from scalingnote_jax.train.stage3 import refine_step
from scalingnote_jax.workflow.workdir import Workdir

OPTIM = {
    "optim.learning_rate": 0.1,
    "optim.weight_decay": 0.1,
    "optim.warmup": "50%",
    "optim.schedule": "linear",
    "optim.clip_norm": 0.1,
    "optim.skip_spikes": 6.0,
    "optim.moment_dtype": "bfloat16",
    "log_every": "3 steps",
    "checkpoint_every": "3 steps",
    "accumulate": 2,
    "batch_size": 16,
    "bucket_window": 1,
}
# field → another value; with what else is set where it has an effect
TRAIN: dict[str, tuple[Any, dict[str, Any]]] = {name: (value, {}) for name, value in OPTIM.items()}
TRAIN |= {
    "duration": ("30 steps", {}),
    "negatives_per_query": (2, {}),
    "symmetric": (False, {}),
    "temperature": (0.3, {}),
    "learn_temperature": (False, {}),
    "temperature_learning_rate": (0.1, {}),
    "fit_query_projection": (True, {}),
    "max_logit_scale": (50.0, {}),
    "false_negative_margin": (0.1, {}),
    "w_spread": (0.1, {}),
    "matryoshka": ((8, 16), {}),
    "title_prediction": ("generative", {}),
    "w_title": (0.5, {"title_prediction": "generative"}),
    "loss": ("blockwise", {}),
    "loss_tile": (4, {"loss": "blockwise"}),
    "encode_chunks": (2, {}),
    "pack_documents": (True, {}),
}
MIXED = {"mixture_weights", "single_collection_batches"}  # tests/unit/data/test_mixture.py
DISTILL: dict[str, tuple[Any, dict[str, Any]]] = {
    name: (value, {}) for name, value in OPTIM.items()
}
SCORES = {"w_kl": 1.0}
DISTILL |= {
    "duration": ("30 steps", {}),
    "queries": (("train",), {}),
    "noise": (("swaps",), {"queries": ("train", "noised")}),
    "noise_strength": (0.9, {"queries": ("train", "noised"), "noise": ("typos",)}),
    "query_weights": ((1.0, 3.0), {}),
    "max_queries": (20, {}),
    "w_mse": (2.0, {}),
    "w_cos": (2.0, {}),
    "normalise": ("pre", {}),
    "w_kl": (1.0, {}),
    "w_margin": (1.0, SCORES),
    "w_rank": (1.0, SCORES),
    "score_temperature": (0.5, SCORES),
    "matryoshka": ((8, 16), {}),
}
# test_candidates.py, test_probe.py, test_initial.py, test_query_texts.py; towers: tests/unit/models
ELSEWHERE = {"top_documents", "sample_documents", "probe_queries", "probe_every"}
ELSEWHERE |= {"query_files", "query_vectors"}  # tests/unit/brought, test_query_log.py
ELSEWHERE |= {
    "fit_projection",
    "cache_dtype",
    "student",
    "sentences_per_document",
    "swaps_per_query",
}
REFINE: dict[str, tuple[Any, dict[str, Any]]] = {name: (value, {}) for name, value in OPTIM.items()}
del REFINE["bucket_window"]
REFINE |= {
    "duration": ("30 steps", {}),
    "temperature": (0.3, {}),
    "false_negative_margin": (0.1, {}),
    "w_align": (0.5, {}),
}
DRAWN = {"bucket_window", "negatives_per_query"}  # of the sampler: test_stage3.py


def own_fields(section: Any) -> set[str]:
    """Leaf fields; of a tower within it just the name."""
    return {"student" if n.startswith("student.") else n for n in field_values(section)}


def test_all_fields_are_here() -> None:
    config = Config("x")
    assert own_fields(config.train) == TRAIN.keys() | MIXED
    assert own_fields(config.distill) == DISTILL.keys() | ELSEWHERE
    assert own_fields(config.refine) == REFINE.keys() | DRAWN


@pytest.fixture(scope="module")
def config(tiny_config: Path) -> Config:
    """One layer a tower, as tracing takes most of the time."""
    config = load_config(tiny_config)
    text = TextConfig(max_tokens=16, buckets=(4, 8, 16))
    tower = replace(config.teacher.query, text=text, num_layers=1)
    teacher = replace(config.teacher, query=tower, doc=tower)
    distill = replace(config.distill, student=replace(config.distill.student, text=text))
    return replace(config, teacher=teacher, distill=distill)


@pytest.fixture(scope="module")
def workdir(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    workdir = Workdir(tmp_path_factory.mktemp("options"))
    build_dataset(config.data, workdir.data)
    return workdir


def set_to(config: Config, section: str, changes: dict[str, Any]) -> Config:
    cfg = getattr(config, section)
    for name, value in changes.items():
        outer, _, inner = name.partition(".")
        given = replace(getattr(cfg, outer), **{inner: value}) if inner else value
        cfg = replace(cfg, **{outer: given})
    config = replace(config, **{section: cfg})
    validate(config)
    return config


def content(batches: list[dict[str, Any]]) -> str:
    rows = [{name: np.asarray(x).tolist() for name, x in batch.items()} for batch in batches]
    return content_hash(rows)


def schedule_of(section: str, cfg: Any, steps: int) -> tuple[Any, ...]:
    made = make_schedule(section, cfg, steps)
    rates = [float(made.learning_rate(step)) for step in (0, 5, 15)]
    return made.total_steps, made.log_every, made.checkpoint_every, rates


def stage_1(config: Config, workdir: Workdir) -> Any:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    stage = first_stage(config, Collection.open(workdir.data), workdir, mesh)
    batches = [stage.sampler.batch(step) for step in range(6)]
    program = str(jax.make_jaxpr(stage.step)(stage.prepared.abstract, batches[0]))
    first: Any = stage.initial
    numbers = [x for x in first.args if isinstance(x, float)]
    schedule = schedule_of("train", config.train, stage.sampler.steps_per_epoch)
    return content(batches), program, first.func.__qualname__, numbers, schedule


def stage_2(config: Config, workdir: Workdir) -> Any:
    cfg, collection = config.distill, Collection.open(workdir.data)
    texts = query_texts(cfg, collection, 0)
    table = TokenTable.from_lists([[1] * (1 + len(t) % 15) for t in texts.learned])
    buckets = cfg.student.text.buckets
    given = table, buckets, cfg.batch_size, cfg.bucket_window, 0
    sampler = TextSampler(*given, epoch_rows=epoch_rows(texts.owners, cfg, 0))
    shapes = {"tokens": (cfg.batch_size, 8), "teacher_raw": (cfg.batch_size, 16)}
    batch = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    batch |= {"tokens": batch["tokens"].astype(np.int32), "mask": batch["tokens"] == 0}
    if cfg.w_kl:
        batch |= {"top_emb": np.ones((cfg.batch_size, 2, 16)), "sample_emb": np.ones((4, 16))}
        batch |= {"top_ids": np.zeros((cfg.batch_size, 2), int), "sample_ids": np.zeros(4, int)}
    program = student_program(config, "distill", distill_step, batch, {"cfg": cfg})
    schedule = schedule_of("distill", cfg, sampler.steps_per_epoch)
    batches = content([sampler.batch(step) for step in range(4)])
    return texts.learned, batches, program, schedule


def stage_3(config: Config, workdir: Workdir) -> Any:
    cfg = config.refine
    size, ids = cfg.batch_size, np.arange(3 * cfg.batch_size, dtype=np.int32)
    batch = {
        "tokens": np.zeros((size, 8), np.int32),
        "mask": np.ones((size, 8), bool),
        "teacher_raw": np.ones((size, 16), np.float32),
        "doc_emb": np.ones((size, 3, 16), np.float32),
        "query_ids": ids[:size],
        "doc_ids": ids.reshape(size, 3),
        "positive_ids": ids[::3][:, None],
    }
    static = {"cfg": cfg, "matryoshka_sizes": ()}
    program = student_program(config, "refine", refine_step, batch, static)
    return program, schedule_of("refine", cfg, 10)


def student_program(
    config: Config, section: str, step: Any, batch: dict[str, Any], static: dict[str, Any]
) -> str:
    cfg = getattr(config, section)
    tower, mesh = tower_def(config.distill.student), make_mesh(MeshConfig(), jax.devices()[:1])
    schedule = make_schedule(section, cfg, 10)
    prepared = prepare_student(section, tower, cfg, schedule, mesh)
    shared = {"teacher_mean": np.zeros(16, np.float32)} if section == "distill" else {}
    named = {"shared": {k: jnp.asarray(v) for k, v in shared.items()}} if shared else {}

    def whole(state: Any, batch: Any) -> Any:
        return step(state, batch, tower=tower, tx=prepared.tx, **named, **static)

    return str(jax.make_jaxpr(whole)(prepared.abstract, batch))


@pytest.mark.parametrize("field", TRAIN)
def test_stage_1(field: str, config: Config, workdir: Workdir) -> None:
    value, needed = TRAIN[field]
    base = set_to(config, "train", needed)
    other = set_to(base, "train", {field: value})
    assert stage_1(base, workdir) != stage_1(other, workdir)


@pytest.mark.parametrize("field", DISTILL)
def test_stage_2(field: str, config: Config, workdir: Workdir) -> None:
    value, needed = DISTILL[field]
    base = set_to(config, "distill", needed)
    other = set_to(base, "distill", {field: value})
    assert stage_2(base, workdir) != stage_2(other, workdir)


@pytest.mark.parametrize("field", REFINE)
def test_stage_3(field: str, config: Config, workdir: Workdir) -> None:
    value, needed = REFINE[field]
    refine = RefineConfig(duration="20 steps", batch_size=8)
    base = set_to(replace(config, refine=refine), "refine", needed)
    other = set_to(base, "refine", {field: value})
    assert stage_3(base, workdir) != stage_3(other, workdir)


def test_the_same_config_gives_the_same(config: Config, workdir: Workdir) -> None:
    """Or the tests above would show nothing."""
    assert stage_1(config, workdir) == stage_1(config, workdir)
    assert stage_2(config, workdir) == stage_2(config, workdir)
    refined = replace(config, refine=RefineConfig(duration="20 steps", batch_size=8))
    assert stage_3(refined, workdir) == stage_3(refined, workdir)
