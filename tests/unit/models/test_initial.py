"""A student that starts from the trained teacher: what follows from the config, which layers it
takes, and how far from the teacher it is before any step.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from run_parts import encoder as encoder_of
from run_parts import second_stage, student_of, teacher_vectors

from scalingnote_jax.cli import main
from scalingnote_jax.config import (
    Config,
    DecoderShape,
    LoraConfig,
    MeshConfig,
    TextConfig,
    TowerConfig,
    TowersConfig,
    replace,
)
from scalingnote_jax.config.load import load_config
from scalingnote_jax.data.augment.query_texts import query_texts
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.devices.sharding import shardings_of
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.from_teacher import chosen_layers, from_teacher
from scalingnote_jax.models.layers.params import flatten, nest
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.models.weights.placing import place
from scalingnote_jax.text.contract import token_table, tower_tokenizer
from scalingnote_jax.vectors.encoder import unit_rows
from scalingnote_jax.workflow.workdir import Workdir

TEXT = TextConfig("query: {text}", max_tokens=16, buckets=(16,))
SHAPE = DecoderShape(num_layers=5)
TEACHER = TowerConfig(
    weights="random", shape=SHAPE, tokenizer="bytes", projection=8, pooling="last", text=TEXT
)


def with_student(student: TowerConfig, teacher: TowerConfig = TEACHER) -> Config:
    config = Config("x", teacher=TowersConfig(query=teacher, doc=teacher))
    return replace(config, distill=replace(config.distill, student=student))


def test_what_the_teacher_decides_is_filled_in() -> None:
    config = with_student(TowerConfig("teacher:first", num_layers=2))
    cfg = student_of(config)
    assert cfg.shape == SHAPE
    assert (cfg.tokenizer, cfg.pooling, cfg.projection, cfg.text) == ("bytes", "last", 8, TEXT)
    tower = tower_def(cfg)
    assert (tower.dim, tower.shape.num_layers) == (8, 2)
    # The layers that a teacher of fewer has are all there is; its tokenizer may be its weights'.
    fewer = replace(TEACHER, num_layers=3, weights="hf:org/name", tokenizer="")
    cfg = student_of(with_student(TowerConfig("teacher:ends"), fewer))
    assert (tower_def(cfg).shape.num_layers, cfg.tokenizer) == (3, "hf:org/name")
    own = TextConfig(max_tokens=8, buckets=(8,))
    assert student_of(with_student(TowerConfig("teacher:first", text=own))).text == own
    plain = TowerConfig("random", shape=SHAPE)
    assert student_of(with_student(plain)) == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projection": 16}, "--distill.student.projection: 16; expected 8, as in the teacher's"),
        ({"pooling": "cls"}, "--distill.student.pooling: cls; expected last"),
        ({"tokenizer": "pip:x"}, "--distill.student.tokenizer: pip:x; expected bytes"),
        ({"shape": DecoderShape()}, "--distill.student.shape"),
        ({"num_layers": 6}, "num_layers 6; expected 0 (all) to 5"),
        ({"weights": "teacher:last"}, "expected 'teacher:first' or 'teacher:ends'"),
    ],
)
def test_a_config_that_contradicts_the_teacher(change: dict[str, object], message: str) -> None:
    student = replace(TowerConfig("teacher:first"), **change)  # type: ignore[arg-type]
    with pytest.raises(UserError) as error:
        student_of(with_student(student))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_layers_keep_their_kind() -> None:
    """Of six layers the third and the sixth see all; as the second the sixth would see a window."""
    gemma = replace(TEACHER, shape=replace(SHAPE, num_layers=6, window=4, global_every=3))
    student_of(with_student(TowerConfig("teacher:first", num_layers=4), gemma))
    with pytest.raises(UserError, match=r"layers \[0, 5\] of a model in which some"):
        student_of(with_student(TowerConfig("teacher:ends", num_layers=2), gemma))


def test_first_and_ends() -> None:
    assert chosen_layers("teacher:first", 3, 12) == [0, 1, 2]
    assert [chosen_layers("teacher:ends", k, 12) for k in (1, 2, 3, 4)] == [
        [0],
        [0, 11],
        [0, 1, 11],
        [0, 1, 10, 11],
    ]
    assert chosen_layers("teacher:ends", 12, 12) == list(range(12))


@pytest.mark.slow
def test_random_weights_are_the_same_wherever_they_are_drawn() -> None:
    tower, mesh = tower_def(TEACHER), make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    shapes, axes = map(flatten, tower.abstract())
    placed = place(flatten(tower.stored_params(3)), shardings_of(shapes, axes, mesh))
    for path, wanted in flatten(jax.jit(tower.init)(3)).items():
        np.testing.assert_array_equal(placed[path], wanted)
    q = placed["body/layers/q"]
    assert {s.data.shape for s in q.addressable_shards} == {(5, 32, 2, 16)}  # of [5, 64, 4, 16]


def test_what_is_taken_is_the_teacher_with_its_adapters_merged() -> None:
    teacher = tower_def(replace(TEACHER, lora=LoraConfig(rank=2)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: np.float32(rng.normal(0, 0.1, x.shape)), teacher.abstract()[0])
    cfg = TowerConfig("teacher:ends", num_layers=3, lora=LoraConfig(rank=2, base_dtype="bfloat16"))
    student = tower_def(student_of(with_student(cfg)))
    taken = from_teacher(student, teacher, params)
    _, merged = teacher.merged(params)
    wanted = merged["body"]["layers"]["q"][np.array([0, 1, 4])].astype("bfloat16")
    np.testing.assert_array_equal(taken["body/layers/q"], wanted)
    np.testing.assert_array_equal(taken["projection"], params["projection"])
    start = flatten(student.stored_params(0, taken))  # new adapters beside it
    assert start.keys() == flatten(student.abstract()[0]).keys()
    assert {p for p in start if p not in taken} == {p for p in start if "/lora/" in p}


@pytest.fixture(scope="module")
def pruned_config(tiny_config: Path) -> Path:
    """The tiny config with a student that starts from the teacher."""
    path = tiny_config.parent / "pruned.py"
    student = 'student=TowerConfig("teacher:first")'
    path.write_text(tiny_config.read_text().replace("student=small", student))
    return path


@pytest.fixture(scope="module")
def trained(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with a trained teacher of two layers."""
    workdir = tmp_path_factory.mktemp("initial") / "w"
    for name in ("data", "teacher"):
        shutil.copytree(finished / name, workdir / name)
    return workdir


def first_error(config: Config, trained: Path) -> float:
    """Mean of 1 - cos between the student before its first step and the teacher, on a batch."""
    workdir, mesh = Workdir(trained), make_mesh(MeshConfig())
    texts = query_texts(config.distill, Collection.open(workdir.data), config.seed).learned
    cfg = student_of(config)
    table = token_table(
        (("", t) for t in texts), cfg, tower_tokenizer(cfg), workdir.tokens, "texts"
    )
    vectors = teacher_vectors(config, texts, workdir, mesh).vectors()
    stage = second_stage(config, table, vectors, workdir, mesh)
    params = nest(stage.prepared.place(stage.initial()).params)["student"]
    batch = stage.sampler.batch(0)
    raw = tower_def(cfg).apply(params, batch["tokens"], batch["mask"])
    return 1 - float((unit_rows(np.asarray(raw)) * unit_rows(batch["teacher_raw"])).sum(-1).mean())


@pytest.mark.slow
def test_how_far_from_the_teacher_each_student_starts(
    tiny_config: Path, pruned_config: Path, trained: Path
) -> None:
    pruned, random = load_config(pruned_config), load_config(tiny_config)  # the latter: one layer
    assert abs(first_error(pruned, trained)) < 1e-6
    far = first_error(random, trained)
    one = replace(pruned.distill, student=replace(pruned.distill.student, num_layers=1))
    assert 1e-3 < first_error(replace(pruned, distill=one), trained) < 0.7 * far
    fitted = replace(random, distill=replace(random.distill, fit_projection=True))
    assert first_error(fitted, trained) < 0.7 * far


@pytest.mark.slow
def test_it_is_used_without_the_teacher(pruned_config: Path, trained: Path) -> None:
    words = ["--distill.student.num_layers=1", "--distill.student.freeze=embedding"]
    workdir = trained.parent / "again"
    shutil.copytree(trained, workdir)
    command = ["distill", str(pruned_config), f"--workdir={workdir}", "--overwrite", *words]
    assert main([*command, "--distill.duration=1 steps"]) == 0
    config, mesh = load_config(pruned_config, words), make_mesh(MeshConfig())
    teacher = encoder_of(config, Workdir(workdir), "teacher", "query", mesh).params["body"]
    shutil.rmtree(workdir / "teacher")
    student = encoder_of(config, Workdir(workdir), "student", "query", mesh)
    body = student.params["body"]
    table = teacher["embedding"]["table"]
    np.testing.assert_array_equal(body["embedding"]["table"], table)  # frozen at the teacher's
    assert body["layers"]["q"].shape[0] == 1
    assert 0 < np.abs(body["layers"]["q"][0] - teacher["layers"]["q"][0]).max() < 0.01
    assert student.encode(["amber topic0"]).shape == (1, 16)


def test_dry_run_before_there_is_a_teacher(
    pruned_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--distill.student.num_layers=1", "--dry-run"]
    assert main(["distill", str(pruned_config), f"--workdir={tmp_path / 'w'}", *words]) == 0
    assert "distill: per device 0.1 MiB weights" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
