"""Rules over several fields of the data. Reads nothing."""

from __future__ import annotations

from scalingnote_jax.config import Config
from scalingnote_jax.config.forms.mixture_entry import check_mixture
from scalingnote_jax.errors import bad_input

SPLITS = ("train", "dev", "test")
_WITH_MORE_SPLITS = ("beir", "ir_datasets")


def _check_splits(config: Config) -> None:
    cfg = config.data
    twice = [name for name in cfg.more_splits if name in SPLITS or cfg.more_splits.count(name) > 1]
    if twice:
        given, expected = repr(twice[0]), f"names beside {', '.join(SPLITS)}, each once"
        raise bad_input("--data.more_splits", given, expected, "leave it out")
    if cfg.more_splits and cfg.source not in _WITH_MORE_SPLITS:
        given = f"{', '.join(cfg.more_splits)} with source {cfg.source!r}"
        expected = f"a source that names its splits: {', '.join(_WITH_MORE_SPLITS)}"
        raise bad_input("--data.more_splits", given, expected, "leave it out")


def _check_source(config: Config) -> None:
    """A path is not passed over. One that is missing is refused by the source: a config without
    data can still be planned.
    """
    cfg = config.data
    if cfg.source == "none":
        _check_no_texts(config)
    if cfg.source == "pydocs" and cfg.path and not cfg.mixture:
        given = f"{cfg.path!r} with source 'pydocs', which reads installed packages"
        fix = "set --data.source too, such as --data.source=beir"
        raise bad_input("--data.path", given, "nothing", fix)


def _check_no_texts(config: Config) -> None:
    """What has no texts to read: whatever would need some is refused."""
    given, texts = "'none', a run without texts", "a source of texts"
    for needs, what in (
        (bool(config.data.path or config.data.mixture), "no path and no mixture"),
        (not config.encode.vectors, "--encode.vectors, whose ids are answered"),
        (config.stages.refines, f"{texts}, for stage 3"),
        (bool(config.eval.collections or config.eval.runs), f"{texts}, for further rows"),
        (bool(config.eval.robustness), f"{texts}, for eval.robustness"),
    ):
        if needs:
            raise bad_input("--data.source", given, what, "change one of them")


def _check_shares(config: Config) -> None:
    cfg = config.data
    if cfg.test_percent + cfg.dev_percent >= 100:
        raise bad_input(
            "--data.test_percent",
            f"{cfg.test_percent}, and {cfg.dev_percent} for --data.dev_percent",
            "two shares from 0 that leave something for training",
            "lower one of them",
        )


def _check_mixture(config: Config) -> None:
    train = config.train
    check_mixture(config.data, train.mixture_weights, train.single_collection_batches)


DATA_RULES = (_check_splits, _check_source, _check_shares, _check_mixture)
