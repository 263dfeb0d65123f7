"""Rules over several fields of vectors, index and evaluation. Opens no folder."""

from __future__ import annotations

import difflib

from scalingnote_jax.config import Config, EvalConfig, IndexConfig
from scalingnote_jax.config.forms.metric_names import parse
from scalingnote_jax.config.rules.data_rules import SPLITS
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


def _check_split(config: Config) -> None:
    known = (*SPLITS, *config.data.more_splits)
    if config.eval.split not in known:
        near = difflib.get_close_matches(config.eval.split, known, n=1)
        add = f"add it: --data.more_splits={config.eval.split}"
        fix = f"did you mean {near[0]!r}?" if near else add
        raise bad_input("--eval.split", repr(config.eval.split), f"one of {', '.join(known)}", fix)


def _check_systems(config: Config) -> None:
    """There is a row to show: without stage 2 there is no student."""
    cfg, stages = config.eval, config.stages
    students = dict.fromkeys(("student", "student_int8"), stages.distills)
    optional = {**students, "refined": stages.refines, "untrained": stages.trains}
    optional |= {"teacher": stages.asks_teacher}
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


def _check_index(config: Config) -> None:
    """Settings that tuning chooses are not given, and those of tuning only where there is one."""
    tuned = config.index.target_recall > 0
    idle = ("reorder", "search_percent") if tuned else ("tuning_queries", "tuning_builds")
    for name in idle:
        value = getattr(config.index, name)
        if value != getattr(IndexConfig, name):
            given = f"{value}, and --index.target_recall is {config.index.target_recall:g}"
            expected = "no setting that tuning chooses" if tuned else "no tuning without a target"
            fix = "set --index.target_recall=0" if tuned else "set a target"
            raise bad_input(f"--index.{name}", given, expected, f"{fix}, or leave it out")


def _check_idle(config: Config) -> None:
    """Options of a disturbance that is not asked for."""
    cfg = config.eval
    strong = set(cfg.robustness) - {"unseen_queries"}
    if cfg.robustness_strengths != EvalConfig.robustness_strengths and not strong:
        given = f"{cfg.robustness_strengths} without a disturbance"
        fix = "name one in --eval.robustness, or leave it out"
        raise bad_input("--eval.robustness_strengths", given, "one that has strengths", fix)
    if cfg.robustness_documents and "foreign_documents" not in cfg.robustness:
        given, fix = "a folder that nothing mixes in", "add it to --eval.robustness"
        raise bad_input("--eval.robustness_documents", given, "foreign_documents", fix)


EVALUATION_RULES = (
    _check_dim,
    _check_metrics,
    _check_split,
    _check_systems,
    _check_disturbances,
    _check_index,
    _check_idle,
)
