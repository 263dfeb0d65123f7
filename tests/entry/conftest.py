"""One finished run for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalingnote_jax.cli import main


@pytest.fixture(scope="session")
def finished(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir on which `scalingnote run` has ended; only to be read."""
    workdir = tmp_path_factory.mktemp("run") / "work"
    assert main(["run", str(tiny_config), f"--workdir={workdir}"]) == 0
    return workdir
