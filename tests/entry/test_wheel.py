"""What `pip install scalingnote_jax` gives: a wheel is built and used outside this folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import scalingnote_jax

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
OFFLINE = ["--no-deps", "--no-index"]

pytestmark = pytest.mark.slow


def files_under(folder: Path) -> set[str]:
    """The names of a folder's files, from its parent on."""
    return {
        str(path.relative_to(folder.parent))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # In a copy: setuptools would take modules from a `build` folder that an older build left here.
    source = tmp_path_factory.mktemp("source") / "scalingnote"
    skipped = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=skipped, symlinks=True)
    out = tmp_path_factory.mktemp("wheel")
    build = [*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", str(out), str(source)]
    subprocess.run(build, check=True, cwd=out)
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_the_configs(wheel: Path):
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    configs = {f"scalingnote_jax/{name}" for name in files_under(ROOT / "configs")}
    assert names == files_under(ROOT / "scalingnote_jax") | configs
    # What is not Python is easily forgotten; `files_under` would not miss a file moved elsewhere.
    assert {Path(n).suffix for n in names} == {".py", ".html", ".css", ".js", ".typed"}
    assert not [n for n in names if "test" in n]


def test_a_shipped_config_runs_outside_the_clone(wheel: Path, tmp_path: Path):
    """To its end, by its name; with programs that are compiled as they are for people, where
    conftest.py leaves the compiler's optimisation out.
    """
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [*PIP, "install", *OFFLINE, "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, cwd=elsewhere)
    environment = os.environ | {"PYTHONPATH": str(site), "XLA_FLAGS": ""}

    def call(*words: str) -> str:
        done = subprocess.run(
            words, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    where = "import scalingnote_jax; print(scalingnote_jax.__file__)"
    assert Path(call(sys.executable, "-c", where).strip()).is_relative_to(site)
    command = [sys.executable, "-m", "scalingnote_jax"]
    assert call(*command, "--version") == f"scalingnote {scalingnote_jax.__version__}\n"
    # This config builds on another one, which it finds beside itself.
    shown = call(*command, "config", "--config", "scalingdoc")
    assert shown.startswith("--name = scalingdoc\n")
    call(*command, "run", "quickstart", "--smoke", "--workdir=w")
    rows = json.loads((elsewhere / "w" / "eval" / "metrics.json").read_text())["rows"]
    assert {row["system"] for row in rows} >= {"bm25", "teacher", "student"}
    assert call(*command, "search", "w", "median", "-k", "1").count(" 1. ") == 1
