"""`mine` and the rounds of stage 1 on a tiny collection: what is found, kept, skipped, gone on with
and refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_parts import encoder as encoder_of
from run_parts import first_stage

from scalingnote_jax.cli import main
from scalingnote_jax.config import Config, replace
from scalingnote_jax.config.load import load_config
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.negatives import Negatives
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.retrieval.bm25 import bm25_run
from scalingnote_jax.retrieval.mine import open_negatives
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.workdir import Workdir

ROUNDS = ["--mine.rounds=none,teacher", "--mine.negatives=3", "--mine.min_found=0", "--overwrite"]


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished workdir that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "work"))


@pytest.fixture(scope="module")
def mined(finished: Path, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished workdir whose stage 1 went through a second round; only to be read."""
    work = Path(shutil.copytree(finished, tmp_path_factory.mktemp("rounds") / "work"))
    assert main(["train", str(tiny_config), f"--workdir={work}", *ROUNDS]) == 0
    return work


@pytest.fixture
def scalingnote(tiny_config: Path) -> Callable[..., int]:
    """The command on the tiny config."""
    return lambda verb, work, *more: main([verb, str(tiny_config), f"--workdir={work}", *more])


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [x for r in records for x in r["losses"]]


def made_at(folder: Path) -> int:
    return (folder / "done.json").stat().st_mtime_ns


def ranked_by_teacher(config: Config, work: Workdir) -> dict[int, list[tuple[int, float]]]:
    """Train query → (document row, score), best first, from the texts themselves."""
    encoder = encoder_of(config, work, "teacher", "query", make_mesh(config.mesh))
    collection = Collection.open(work.data)
    documents = VectorStore.open(work.embeddings("teacher", "doc")).vectors()
    found = {}
    for row, query in enumerate(collection.queries):
        if query.id in collection.qrels("train"):
            scores = documents @ encoder.unit(encoder.encode([query.text]))[0]
            order = np.argsort(-scores, kind="stable")
            found[row] = [(int(d), float(scores[d])) for d in order]
    return found


def test_mine_finds_what_the_teacher_ranks_high_and_nobody_judged_relevant(
    copy: Path, tiny_config: Path, scalingnote: Callable[..., int], capsys
):
    words = ["--mine.negatives=4", "--mine.first_rank=2", "--mine.last_rank=5"]
    assert scalingnote("mine", copy, *words, "--mine.min_found=0.05", "--overwrite") == 0
    work, config = Workdir(copy), load_config(tiny_config)
    collection, found = Collection.open(work.data), open_negatives(work.negatives)
    qrels = collection.qrels("train")
    ranked = ranked_by_teacher(config, work)
    assert found.query_rows.tolist() == list(ranked)
    best, some = [], 0
    for row, docs, scores in zip(found.query_rows, found.doc_rows, found.scores, strict=True):
        positives = {collection.doc_ids.index(d) for d in qrels[collection.query_ids[row]]}
        best.append(max(score for d, score in ranked[int(row)] if d in positives))
        others = [(d, score) for d, score in ranked[int(row)] if d not in positives][1:5]
        mean = np.mean([score for _, score in ranked[int(row)]])
        limit = best[-1] - 0.05 * abs(best[-1] - mean)
        expected = [(d, score) for d, score in others if score <= limit]
        assert docs[docs >= 0].tolist() == [d for d, _ in expected]
        np.testing.assert_allclose(scores[docs >= 0], [s for _, s in expected], atol=1e-5)
        some += len(expected)
    facts = json.loads((copy / "negatives" / "statistics.json").read_text())
    assert (facts["queries"], facts["wanted"], facts["found"]) == (35, 140, some)
    relevant = facts["scores"]["best relevant"]
    assert relevant["50%"] == pytest.approx(np.median(best), abs=1e-5)
    assert facts["scores"]["in the window"]["count"] == 140
    assert facts["scores"]["too near the relevant"]["count"] == 140 - some
    assert "hard negatives (teacher)" in capsys.readouterr().err


def test_bm25_negatives_are_its_best_that_are_not_relevant(
    copy: Path, scalingnote: Callable[..., int]
):
    words = ["--mine.rounds=bm25", "--mine.negatives=2", "--mine.last_rank=2", "--mine.min_found=0"]
    assert scalingnote("mine", copy, *words, "--overwrite") == 0
    work = Workdir(copy)
    collection, found = Collection.open(work.data), open_negatives(work.negatives)
    queries = [collection.queries[int(row)] for row in found.query_rows]
    run, _ = bm25_run(collection.documents, queries, 40)
    for query, docs in zip(queries, found.doc_rows, strict=True):
        relevant = collection.qrels("train")[query.id]
        best = [doc_id for doc_id, _ in run[query.id] if doc_id not in relevant][:2]
        assert [collection.doc_ids[row] for row in docs if row >= 0] == best
    assert not (copy / "rounds").exists(), "one training, and no teacher before it"


@pytest.mark.slow
def test_what_the_data_judges_not_relevant_is_taken_as_it_is(
    tiny_config: Path, tmp_path: Path, scalingnote: Callable[..., int]
):
    data = Path(shutil.copytree(tiny_config.parent / "beir", tmp_path / "beir"))
    with (data / "qrels" / "train.tsv").open("a") as file:
        file.write("q0-0\td5-0\t0\nq0-0\td6-1\t0\nq1-0\td7-0\t0\n")
    words = [f"--data.path={data}", "--mine.rounds=judged", "--mine.min_found=0"]
    work = Workdir(tmp_path / "work")
    assert scalingnote("data", work.root, *words) == 0
    assert scalingnote("mine", work.root, *words) == 0
    collection, found = Collection.open(work.data), open_negatives(work.negatives)
    assert found.doc_rows.shape == (35, 2)
    ids = {
        collection.query_ids[query]: [collection.doc_ids[row] for row in docs if row >= 0]
        for query, docs in zip(found.query_rows, found.doc_rows, strict=True)
    }
    assert {q: docs for q, docs in ids.items() if docs} == {
        "q0-0": ["d5-0", "d6-1"],
        "q1-0": ["d7-0"],
    }


def test_too_few_are_refused_in_one_line_and_leave_nothing(
    copy: Path, scalingnote: Callable[..., int], capsys
):
    assert scalingnote("mine", copy, "--mine.absolute_margin=1.9", "--overwrite") == 2
    err = capsys.readouterr().err.splitlines()
    assert "--mine.min_found: 0 hard negatives found, 0.0% of those wanted" in err[-1]
    assert "too near the relevant" in "".join(err), "the table says why"
    assert not (copy / "negatives").exists()


@pytest.mark.slow
def test_a_round_is_mined_from_the_teacher_before_it_and_trained_on(mined: Path, finished: Path):
    # The teacher that was there is the first round's, and was not trained again.
    assert made_at(mined / "rounds" / "0" / "teacher") == made_at(finished / "teacher")
    assert losses(mined / "rounds" / "0" / "teacher") == losses(finished / "teacher")
    manifest = json.loads((mined / "negatives" / "manifest.json").read_text())
    first = json.loads((mined / "rounds" / "0" / "teacher" / "done.json").read_text())
    assert manifest["teacher"] == first["output"]
    again = losses(mined / "teacher")
    assert len(again) == 20
    assert again[0] != losses(finished / "teacher")[0], "other documents in the first batch"


@pytest.mark.slow
def test_a_mined_document_stands_in_the_batch_at_its_place(mined: Path, tiny_config: Path):
    config, work = load_config(tiny_config), Workdir(mined)
    collection, found = Collection.open(work.data), open_negatives(work.negatives)
    mesh = make_mesh(config.mesh)
    stage = first_stage(config, collection, work, mesh, found)
    of_query = dict(zip(found.query_rows.tolist(), found.doc_rows.tolist(), strict=True))
    hard = 0
    for step in range(4):
        queries, docs = stage.sampler.rows(step)
        batch = stage.sampler.batch(step)
        for place, query in enumerate(queries):
            mined_rows = [row for row in of_query[int(query)] if row >= 0]
            if mined_rows:
                assert docs[place, 1] in mined_rows
                assert batch["doc_ids"][place, 1] == collection.doc_groups[docs[place, 1]]
                assert batch["doc_ids"][place, 1] not in batch["positive_ids"][place]
                hard += 1
    assert hard > 4


@pytest.mark.slow
def test_what_is_done_is_skipped_and_only_what_depends_is_made_again(
    mined: Path, tmp_path: Path, scalingnote: Callable[..., int], capsys
):
    work = Path(shutil.copytree(mined, tmp_path / "work"))
    words = [word for word in ROUNDS if word != "--overwrite"]
    assert scalingnote("train", work, *words) == 0
    assert capsys.readouterr().err.count("done already") == 3
    before = (work / "negatives" / "negatives.npz").read_bytes()
    shutil.rmtree(work / "negatives")
    assert scalingnote("train", work, *words) == 0
    assert (work / "negatives" / "negatives.npz").read_bytes() == before
    assert capsys.readouterr().err.count("done already") == 2, "the same negatives as before"
    teachers = [work / "rounds" / "0" / "teacher", work / "teacher"]
    old = [made_at(folder) for folder in teachers]
    assert scalingnote("train", work, *ROUNDS, "--mine.negatives=2") == 0
    new = [made_at(folder) for folder in teachers]
    assert new[0] == old[0], "the first round does not depend on what is mined after it"
    assert new[1] != old[1]


@pytest.mark.slow
def test_a_killed_round_goes_on(mined: Path, tmp_path: Path, scalingnote: Callable[..., int]):
    work = Path(shutil.copytree(mined, tmp_path / "work"))
    (work / "teacher" / "done.json").unlink()
    for checkpoint in (work / "teacher" / "checkpoints").iterdir():
        if int(checkpoint.name) > 15:
            shutil.rmtree(checkpoint)
    words = [word for word in ROUNDS if word != "--overwrite"]
    assert scalingnote("train", work, *words) == 0
    assert losses(work / "teacher") == losses(mined / "teacher")


@pytest.mark.slow
def test_a_round_may_go_on_from_the_weights_before_it(
    copy: Path, mined: Path, tiny_config: Path, scalingnote: Callable[..., int]
):
    assert scalingnote("train", copy, *ROUNDS, "--mine.continue_weights=true") == 0
    anew, further = losses(mined / "teacher"), losses(copy / "teacher")
    assert further[0] < anew[0] - 0.1, "the same batch, with weights that were trained before"
    config, work = load_config(tiny_config), Workdir(copy)
    first = work.at_round(0).teacher
    args = (Collection.open(work.data), work, make_mesh(config.mesh))
    stage = first_stage(config, *args, before=first)
    trained = encoder_of(config, work.at_round(0), "teacher", "doc", args[2])
    start = stage.initial()
    np.testing.assert_array_equal(start["doc/projection"], trained.params["projection"])


@pytest.mark.slow
def test_damaged_negatives_are_named_and_made_again(
    mined: Path, tmp_path: Path, scalingnote, capsys
):
    work = Path(shutil.copytree(mined, tmp_path / "work"))
    path = work / "negatives" / "negatives.npz"
    before = path.read_bytes()
    path.write_bytes(before[:100] + bytes([before[100] ^ 0xFF]) + before[101:])
    with pytest.raises(UserError, match=r"negatives\.npz: damaged"):
        open_negatives(path.parent)
    assert scalingnote("mine", work, *(word for word in ROUNDS if word != "--overwrite")) == 0
    assert "negatives.npz is damaged" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_negatives_of_other_queries_are_not_trained_on(finished: Path, tiny_config: Path):
    config, work = load_config(tiny_config), Workdir(finished)
    collection = Collection.open(work.data)
    other = Negatives(np.arange(3, dtype=np.int32), np.zeros((3, 1), np.int32), np.zeros((3, 1)))
    mesh = make_mesh(replace(config.mesh))
    with pytest.raises(AssertionError, match="hard negatives of other queries"):
        first_stage(config, collection, work, mesh, other)
