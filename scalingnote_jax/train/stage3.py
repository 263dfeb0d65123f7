"""Stage 3: the distilled student meets the documents (HARNESS-LM's third phase, arXiv 2605.23572).

Contrastive like stage 1, but against frozen document vectors, read from the store and never made by
a tower: the index stays as it is. The positives of the training queries are each other's negatives,
and each query has hard ones beside its own: those that the trained teacher ranks highest over all
documents, under the rules that mining has (`data/negatives.py`). A term holds the student to the
teacher's vectors, so that it does not forget what stage 2 taught it about other queries. Ours: the
weights, and all numbers.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import Config, MineConfig, RefineConfig, replace
from scalingnote_jax.config.values import section_hash
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.negatives import choose
from scalingnote_jax.data.order import EpochPlans, check_sizes, epoch_order
from scalingnote_jax.data.relevance import Relevance
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.from_teacher import student_config
from scalingnote_jax.models.layers.params import Flat, flatten
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.progress import say
from scalingnote_jax.retrieval.mine import ranked
from scalingnote_jax.text.contract import contract, tower_tokenizer
from scalingnote_jax.text.tokens import TokenTable, bucket_of
from scalingnote_jax.train.candidates import frozen_store, kept
from scalingnote_jax.train.loop import Stage, fit
from scalingnote_jax.train.prepare import Prepared, check_batch, make_schedule
from scalingnote_jax.train.stage2 import student_tokens, teacher_vectors
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.train.step import refine_step
from scalingnote_jax.vectors.encoder import load_encoder, unit_rows
from scalingnote_jax.vectors.pairing import pairing_meta
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.workdir import Workdir


def mining_rules(cfg: MineConfig) -> MineConfig:
    """What of the config's mining holds in stage 3: not the rounds of stage 1."""
    return replace(cfg, rounds=(), continue_weights=False)


def hard_negatives(
    config: Config,
    collection: Collection,
    relevance: Relevance,
    workdir: Workdir,
    queries: VectorStore,
    documents: VectorStore,
    mesh: Mesh,
) -> np.ndarray:
    """[examples, M] int32, documents (rows) that are hard for each training query, -1 behind the
    last: chosen among the teacher's best by exact search, and kept.

    Args:
        queries: the teacher's raw vectors of the examples' queries.
        documents: unit vectors.
    """
    rules, on_disk = config.mine, documents.on_disk()

    def make() -> np.ndarray:
        unit = unit_rows(queries.vectors()[:, : documents.dim])
        depth = min(len(documents), rules.last_rank + relevance.width)
        ranking = ranked(unit, on_disk, relevance, depth, config.eval.exact, mesh)
        return choose(ranking, relevance, collection.query_ids, rules, config.seed)[0].doc_rows

    made_from = {
        "queries": queries.fingerprint,
        "documents": documents.fingerprint,
        "rules": section_hash(mining_rules(rules), config.seed),
        "judgements": collection.fingerprint,
    }
    found = kept(workdir.embeddings("teacher", "refine-negatives"), made_from, make)
    share, none = (found >= 0).mean(), int((found < 0).all(1).sum())
    say(f"refine: hard negatives {share:.1%} of those wanted; {none} queries have random ones only")
    return found


class RefineSampler:
    """Batches of stage 3: training queries, each with the vectors of a relevant document and of
    G - 1 others. The same for every number of processes, a function of (seed, step).

    Attributes:
        steps_per_epoch: full batches; what is left over is dropped, another part each epoch.
    """

    def __init__(
        self,
        collection: Collection,
        relevance: Relevance,
        tokens: TokenTable,
        buckets: tuple[int, ...],
        teacher: np.ndarray,
        documents: VectorStore,
        negatives: np.ndarray,
        cfg: RefineConfig,
        seed: int,
        part: int = 0,
        parts: int = 1,
    ):
        """
        Args:
            tokens, teacher: of the query of each example: in the student's tokens, and [examples,
                D] raw.
            negatives: as `hard_negatives` gives them; where they are too few, others are drawn.
            part, parts: of a batch, this process's.
        """
        assert len(documents) == len(collection.doc_ids), "vectors of other documents"
        examples = len(relevance)
        check_sizes("refine", examples, cfg.batch_size, cfg.bucket_window, parts)
        relevance.check_negatives(cfg.negatives_per_query, "refine")
        self.steps_per_epoch = examples // cfg.batch_size
        self._collection, self._relevance, self._tokens = collection, relevance, tokens
        self._buckets, self._teacher, self._rows = buckets, teacher, documents.on_disk()
        size = cfg.batch_size // parts
        self._own = slice(part * size, (part + 1) * size)
        sizes = np.searchsorted(buckets, tokens.lengths)

        def plan(epoch: int) -> tuple[np.ndarray, np.ndarray]:
            docs = relevance.draw(seed, epoch, cfg.negatives_per_query, negatives)
            return epoch_order(sizes, cfg.batch_size, cfg.bucket_window, seed, epoch), docs

        self._plans = EpochPlans(plan)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of step `step`, as `refine_step` wants them."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order, docs = self._plans[epoch]
        length = bucket_of(int(self._tokens.lengths[order[number]].max()), self._buckets)
        examples = order[number][self._own]
        tokens, mask = self._tokens.take(examples, length)
        queries = self._relevance.query_rows[examples]
        return {
            "tokens": tokens,
            "mask": mask,
            "teacher_raw": np.asarray(self._teacher[examples]),
            "doc_emb": self._rows.take(docs[examples]),
            "query_ids": self._collection.query_groups[queries],
            "doc_ids": self._collection.doc_groups[docs[examples]],
            "positive_ids": self._relevance.known_groups(examples),
        }


def build(
    config: Config, sampler: RefineSampler, workdir: Workdir, mesh: Mesh, inputs: str, teacher: str
) -> Stage:
    """Everything of stage 3 but the weights.

    Args:
        teacher: `weights_hash` of the teacher.
    """
    cfg, student = config.refine, student_config(config)
    tower = tower_def(student, "distill.student")
    schedule = make_schedule("refine", cfg, sampler.steps_per_epoch)
    shapes, axes = (flatten({"student": tree}) for tree in tower.abstract())
    prepared = Prepared("distill.student", shapes, axes, tower.freeze, cfg, schedule, mesh)
    terms = {"query": contract(tower, tower_tokenizer(tower.cfg))}
    return Stage(
        name="refine",
        folder=workdir.refined,
        prepared=prepared,
        step=prepared.jit(
            refine_step,
            tower=tower,
            cfg=cfg,
            matryoshka_sizes=config.distill.matryoshka,
            seed=config.seed,
        ),
        initial=partial(_distilled, config, workdir, mesh),
        sampler=sampler,
        schedule=schedule,
        meta={"inputs": inputs, "contracts": terms} | pairing_meta(teacher, student),
    )


def _distilled(config: Config, workdir: Workdir, mesh: Mesh) -> Flat:
    encoder = load_encoder(config, workdir, "student", "query", mesh)
    return flatten({"student": encoder.params})


def check_refine(cfg: RefineConfig, mesh: Mesh) -> None:
    """Refuses numbers that cannot work."""
    check_batch("refine", cfg, mesh)
    if cfg.temperature <= 0:
        given = str(cfg.temperature)
        raise bad_input("--refine.temperature", given, "above 0", "e.g. 0.05")
    if cfg.w_align < 0:
        given = str(cfg.w_align)
        raise bad_input("--refine.w_align", given, "0 or more", "0 leaves the term out")


def refine(
    config: Config, collection: Collection, workdir: Workdir, mesh: Mesh, inputs: str
) -> TrainState:
    """Runs stage 3 to its end, from the newest checkpoint if there is one."""
    check_refine(config.refine, mesh)
    documents = frozen_store(config, workdir, needed=True)
    assert documents is not None
    relevance, student = Relevance(collection, "train"), student_config(config)
    every = [q.text for q in collection.queries]
    texts = [every[row] for row in relevance.query_rows]
    queries = teacher_vectors(config, texts, workdir, mesh, "refine")
    given = collection, relevance, workdir, queries, documents, mesh
    sampler = RefineSampler(
        collection,
        relevance,
        student_tokens(texts, student, workdir),
        student.text.buckets,
        queries.vectors(),
        documents,
        hard_negatives(config, *given),
        config.refine,
        config.seed,
        *mesh_lib.batch_part(mesh),
    )
    teacher = queries.manifest["checkpoint"]
    return fit(build(config, sampler, workdir, mesh, inputs, teacher))
