"""Rules over several fields of vectors, index and evaluation. Opens no folder."""

from __future__ import annotations

from scalingnote_jax.config import Config
from scalingnote_jax.config.forms.metric_names import parse
from scalingnote_jax.config.rules.tower_rules import known_dim
from scalingnote_jax.errors import bad_input


def _check_dim(config: Config) -> None:
    dim = known_dim(config.teacher.doc) or known_dim(config.teacher.query)
    if dim and config.encode.dim > dim:
        given, expected = str(config.encode.dim), f"0 (all) to {dim}, the D of the tower"
        raise bad_input("--encode.dim", given, expected, "choose one of train.matryoshka")


def _check_metrics(config: Config) -> None:
    cfg = config.eval
    if not cfg.metrics:
        fix = "such as --eval.metrics=Recall@10,nDCG@10"
        raise bad_input("--eval.metrics", "none", "one or more", fix)
    deepest = max((parse(name) or ("", 0))[1] for name in cfg.metrics)
    if deepest > cfg.depth:
        raise bad_input("--eval.depth", str(cfg.depth), f"at least {deepest}", "raise it")


def _check_systems(config: Config) -> None:
    """There is a row to show: without stage 2 there is no student."""
    cfg, stages = config.eval, config.stages
    students = dict.fromkeys(("student", "student_int8"), stages.distills)
    optional = {**students, "refined": stages.refines}
    if not any(optional.get(system, True) for system in cfg.systems) and not cfg.runs:
        given = ", ".join(cfg.systems) or "none"
        expected = "one that this config has, such as bm25 or teacher, or a run in --eval.runs"
        raise bad_input("--eval.systems", given, expected, "add one")


def _check_disturbances(config: Config) -> None:
    cfg = config.eval
    if "foreign_documents" in cfg.robustness and not cfg.robustness_documents:
        raise bad_input(
            "--eval.robustness_documents",
            "'' is not a folder",
            "a second collection in BEIR layout, for foreign_documents",
            "name one, or use shuffled_documents, which needs none",
        )
    if "unseen_queries" in cfg.robustness and cfg.split == "train":
        fix = "choose another, or leave unseen_queries out"
        raise bad_input("--eval.split", "train", "dev or test, for unseen_queries", fix)


EVALUATION_RULES = (_check_dim, _check_metrics, _check_systems, _check_disturbances)
