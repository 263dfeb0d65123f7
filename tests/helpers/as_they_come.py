"""Fixtures: an existing model, a config that takes it as it comes, and a run that evaluated it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scalingnote_jax.cli import main

UNTRAINED = ["--train.duration=", "--distill.duration="]


@pytest.fixture(scope="session")
def model(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder: the teacher's document tower of a finished run."""
    out = tmp_path_factory.mktemp("model") / "doc"
    words = ["--format=sentence-transformers", "--tower=teacher"]
    assert main(["export", str(finished), str(out), *words]) == 0
    return out


@pytest.fixture(scope="session")
def config(tiny_config: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config that evaluates that folder, with test judgements only, and may teach from it."""
    folder = tmp_path_factory.mktemp("as_they_come")  # of this process alone
    only_test = folder / "only_test"
    shutil.copytree(tiny_config.parent / "beir", only_test)
    for split in ("train", "dev"):
        (only_test / "qrels" / f"{split}.tsv").unlink()
    path = folder / "as_they_come.py"
    path.write_text(
        tiny_config.read_text()
        .replace(
            "    return Config(",
            f"    query = TowerConfig(weights={str(model)!r})\n"
            "    tower = replace(query, weights='query')\n"
            "    return Config(",
        )
        .replace("TowersConfig(query=tower, doc=tower)", "TowersConfig(query=query, doc=tower)")
        .replace(str(tiny_config.parent / "beir"), str(only_test))
        .replace('queries=("train", "sentences")', 'queries=("titles", "sentences")')
    )
    return path


@pytest.fixture(scope="session")
def evaluated(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("evaluated") / "w"
    assert main(["run", str(config), f"--workdir={workdir}", *UNTRAINED]) == 0
    return workdir
