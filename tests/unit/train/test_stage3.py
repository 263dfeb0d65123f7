"""Stage 3, and stage 2 with terms that look at documents, on a finished tiny run: what batches
hold, what is left, and which tower answers then.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_parts import encoder as encoder_of
from run_parts import lesson

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.config import Config, MeshConfig, RefineConfig, replace
from scalingnote_jax.config.load import load_config
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.members import Members
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.losses.contrastive import contrastive_loss
from scalingnote_jax.run import tasks_of
from scalingnote_jax.systems import systems_of
from scalingnote_jax.train.candidates import Rules
from scalingnote_jax.train.log.metrics_log import read_metrics
from scalingnote_jax.train.stage3 import RefineSampler, refine_loss, refine_sampler
from scalingnote_jax.vectors.encoder import unit_rows
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.engine import Place
from scalingnote_jax.workflow.workdir import Workdir

REFINE = ["--refine.duration=8 steps", "--refine.batch_size=8", "--refine.negatives_per_query=2"]
REFINE += ["--refine.log_every=2 steps", "--refine.optim.learning_rate=1e-3", "--mine.last_rank=20"]
LOSSES = {"w_kl": "kl", "w_margin": "margin_error", "w_rank": "rank_loss"}


@pytest.fixture(scope="module")
def workdir(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that stage 3 was added to."""
    work = tmp_path_factory.mktemp("refine") / "work"
    return Path(shutil.copytree(finished, work))


@pytest.fixture(scope="module")
def config(tiny_config: Path) -> Config:
    return load_config(tiny_config, REFINE)


@pytest.fixture(scope="module")
def refined(workdir: Path, tiny_config: Path) -> Path:
    words = [str(tiny_config), f"--workdir={workdir}", "--overwrite", *REFINE]
    assert main(["run", *words]) == 0
    return workdir


def systems(config: Config) -> list[str]:
    return [s.name for s in systems_of(config.stages, config.eval.systems)]


def sampler(
    config: Config, workdir: Path, members: Members | None = None, process: int = -1
) -> RefineSampler:
    """Of the one process, or of one of two."""
    paths = Workdir(workdir)
    place = Place(paths.refined, paths, make_mesh(MeshConfig()), "x")
    rules, collection = Rules(config.mine, config.eval.exact), Collection.open(paths.data)
    given = config.refine, lesson(config, paths), rules, collection, members
    made = refine_sampler(*given, paths.embeddings("teacher", "doc"), place)
    if process >= 0:
        made._own = slice(process * 4, process * 4 + 4)
    return made


def test_a_batch_holds_frozen_vectors_of_what_its_ids_say(workdir: Path, config: Config) -> None:
    batch = sampler(config, workdir).batch(1)
    assert batch["doc_emb"].shape == (8, 3, 16)
    np.testing.assert_allclose(np.linalg.norm(batch["doc_emb"], axis=-1), 1.0, atol=1e-5)
    positives = batch["positive_ids"]
    assert (batch["doc_ids"][:, :1] == positives).any(1).all()
    assert not (batch["doc_ids"][:, 1:, None] == positives[:, None]).any()
    store = VectorStore.open(Workdir(workdir).embeddings("teacher", "doc"))
    collection = Collection.open(Workdir(workdir).data)
    first = {int(group): row for row, group in reversed(list(enumerate(collection.doc_groups)))}
    rows = np.array([first[int(group)] for group in batch["doc_ids"].ravel()])
    np.testing.assert_array_equal(store.vectors()[rows], batch["doc_emb"].reshape(-1, 16))
    halves = [sampler(config, workdir, process=i).batch(1) for i in (0, 1)]
    for name, x in batch.items():
        np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), x)


def test_negatives_are_of_the_querys_own_collection(workdir: Path, config: Config) -> None:
    """Both hard and random ones: too few of the teacher's best are left in half of the corpus."""
    collection = Collection.open(Workdir(workdir).data)
    half = collection.doc_ids.index("d15-0")
    topics = np.array([int(query_id[1:].split("-")[0]) for query_id in collection.query_ids])
    starts = np.array([0, half, len(collection.doc_ids)])
    members = Members(("a", "b"), (topics >= 15).astype(int), starts)
    one = replace(config, mine=replace(config.mine, negatives=1, last_rank=1))
    made = sampler(one, workdir, members)
    seen = np.zeros(2, int)
    for step in range(6):
        batch = made.batch(step)
        sides = np.isin(batch["doc_ids"], collection.doc_groups[half:]).astype(int)
        assert (sides == sides[:, :1]).all()
        seen += np.bincount(sides[:, 0], minlength=2)
    assert seen.min() > 5


def test_hard_negatives_are_the_teachers_best(workdir: Path, config: Config) -> None:
    """They score higher than what is drawn at random, by the teacher."""
    hard = sampler(config, workdir)
    random = replace(config, mine=replace(config.mine, max_score=-1.0))  # none is low enough
    means = []
    for made in (hard, sampler(random, workdir)):
        batches = [made.batch(step) for step in range(5)]
        scores = [
            np.einsum("bd,bgd->bg", unit_rows(b["teacher_raw"]), b["doc_emb"][:, 1:]).mean()
            for b in batches
        ]
        means.append(np.mean(scores))
    assert means[0] > means[1] + 0.1


@pytest.mark.slow
def test_the_loss_is_contrastive_in_one_direction_plus_alignment() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 4, 6)).astype(np.float32)
    docs = unit_rows(rng.normal(size=(12, 6)).astype(np.float32)).reshape(4, 3, 6)
    ids = {
        "query_ids": jnp.arange(4),
        "doc_ids": jnp.arange(12).reshape(4, 3),
        "positive_ids": jnp.arange(0, 12, 3)[:, None],
    }
    cfg = RefineConfig(temperature=0.5, w_align=2.0)
    loss, sums = refine_loss(student, teacher, docs, cfg=cfg, batch=ids, rows=None)
    plain, _ = contrastive_loss(unit_rows(student), docs, **ids, scale=2.0, symmetric=False)
    cosine = (unit_rows(student) * unit_rows(teacher)).sum()
    assert loss == pytest.approx(float(plain + 2.0 * (4 - cosine)), rel=1e-5)
    assert sums["negatives_per_query"] == 4 * 11
    # Documents of fewer components meet as many of the query's.
    cut, _ = refine_loss(student, teacher, docs[..., :4], cfg=cfg, batch=ids, rows=None)
    short, _ = refine_loss(student[:, :4], teacher[:, :4], docs[..., :4], cfg=cfg, batch=ids,
                           rows=None)  # fmt: skip
    cosines = [(unit_rows(student[:, :d]) * unit_rows(teacher[:, :d])).sum() for d in (4, 6)]
    assert cut - short == pytest.approx(float(2.0 * (cosines[0] - cosines[1])), abs=1e-4)


@pytest.mark.slow
def test_it_learns_and_leaves_everything_else_as_it_was(refined: Path, finished: Path) -> None:
    records = read_metrics(refined / "student" / "refined" / "metrics.jsonl")
    assert [r["step"] for r in records] == [2, 4, 6, 8]
    assert records[-1]["contrastive"] < records[0]["contrastive"]
    assert {"accuracy", "cosine", "negatives_per_query"} <= records[0].keys()
    for folder in ("teacher", "student", "embeddings/teacher-doc", "index"):
        name = Path(folder) / ("manifest.json" if folder.startswith("emb") else "done.json")
        assert (refined / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.slow
def test_both_students_are_rows_and_the_refined_one_answers(refined: Path, config: Config) -> None:
    metrics = json.loads((refined / "eval" / "metrics.json").read_text())
    found = [(r["system"], r["search"]) for r in metrics["rows"]]
    at = found.index(("student", "exact"))
    assert found[at + 2 : at + 4] == [("refined", "exact"), ("refined", "scann")]
    assert "Student, refined" in (refined / "report.html").read_text()
    by_row = {(r["system"], r["search"]): r["metrics"] for r in metrics["rows"]}
    ours, teacher = by_row["refined", "scann"], by_row["teacher", "scann"]
    assert metrics["shipped"] == "refined"
    assert metrics["retention"] == {n: ours[n] / teacher[n] for n in ours if teacher[n]}
    model, mesh = scalingnote_jax.load(refined), make_mesh(MeshConfig(), jax.devices()[:1])
    answers = model.encode_queries(["topic3"])
    towers = {
        name: encoder_of(config, Workdir(refined), name, "query", mesh)
        for name in ("student", "refined", "student_int8")
    }
    vectors = {name: t.unit(t.encode(["topic3"])) for name, t in towers.items()}
    np.testing.assert_allclose(answers, vectors["refined"], atol=1e-5)
    assert np.abs(answers - vectors["student"]).max() > 1e-4
    nearer = [float((vectors["student_int8"] @ vectors[n].T)[0, 0]) for n in ("refined", "student")]
    assert nearer[0] > nearer[1]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(
    refined: Path, tiny_config: Path, config: Config, tmp_path: Path
) -> None:
    work = Path(shutil.copytree(refined, tmp_path / "work"))
    folder = work / "student" / "refined"
    (folder / "done.json").unlink()
    newest = max((folder / "checkpoints").iterdir(), key=lambda p: int(p.name))
    shutil.rmtree(newest)
    assert main(["refine", str(tiny_config), f"--workdir={work}", *REFINE]) == 0
    mesh = make_mesh(MeshConfig())
    whole, parts = (
        encoder_of(config, Workdir(place), "refined", "query", mesh).params
        for place in (refined, work)
    )
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


def test_what_follows_from_the_config(config: Config, tiny_config: Path, tmp_path: Path) -> None:
    off = load_config(tiny_config)
    assert (config.stages.shipped, off.stages.shipped) == ("refined", "student")
    assert systems(config) == ["bm25", "untrained", "teacher", "student", "refined"]
    assert systems(off) == ["bm25", "untrained", "teacher", "student"]
    listed = replace(off, eval=replace(off.eval, systems=("refined", "teacher")))
    assert systems(listed) == ["teacher"]
    assert systems(replace(listed, refine=config.refine)) == ["refined", "teacher"]


def test_dry_run_shows_it(tiny_config: Path, tmp_path: Path, capsys) -> None:
    words = [str(tiny_config), f"--workdir={tmp_path / 'w'}", "--dry-run"]
    assert main(["refine", *words, *REFINE]) == 0
    assert "refine: per device" in capsys.readouterr().err
    assert main(["run", *words]) == 0
    assert "refine: per device" not in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_terms_that_look_at_documents(finished: Path, tiny_config: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(finished, tmp_path / "work"))
    words = ["distill", str(tiny_config), f"--workdir={work}", "--overwrite"]
    words += ["--distill.duration=4 steps", "--distill.log_every=2 steps"]
    words += ["--distill.sample_documents=16", "--distill.top_documents=4"]
    words += [f"--distill.{weight}=0.5" for weight in LOSSES]
    assert main([*words, "--distill.accumulate=1"]) == 0
    records = read_metrics(work / "student" / "metrics.jsonl")
    assert [r["step"] for r in records] == [2, 4]
    for record in records:
        assert all(np.isfinite(record[name]) for name in (*LOSSES.values(), "centred_cosine"))
        plain = record["squared_error"] + 1 - record["cosine"]
        assert record["loss"] == pytest.approx(
            plain + 0.5 * sum(record[name] for name in LOSSES.values()), rel=1e-5
        )
    assert 0 <= records[-1]["heldout_overlap@10"] <= 1
    assert (work / "embeddings" / "teacher-distill-best" / "manifest.json").is_file()
    # Documents are asked for only where a term looks at them.
    shutil.rmtree(work / "embeddings" / "teacher-doc")
    config = load_config(tiny_config)
    tasks_of(config, Workdir(work), "distill")[0].inputs(config)
    looks = replace(config, distill=replace(config.distill, w_kl=1.0))
    with pytest.raises(UserError, match="run `scalingnote encode` first"):
        tasks_of(looks, Workdir(work), "distill")[0].inputs(looks)
