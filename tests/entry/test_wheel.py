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


SCRIPT = """
import json
from importlib.resources import as_file, files

import scalingnote_jax
from scalingnote_jax.config.load import load_config

with as_file(files("scalingnote_jax.configs")) as folder:
    names = {p.stem: load_config(p).name for p in [folder / "quickstart.py", folder / NAMED]}
print(json.dumps({"package": scalingnote_jax.__file__, "folder": str(folder), "names": names}))
"""


def test_an_installed_config_is_read_outside_the_clone(wheel: Path, tmp_path: Path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [*PIP, "install", *OFFLINE, "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, cwd=elsewhere)
    # A config that builds on another one finds it beside itself.
    based = next(p for p in (ROOT / "configs").rglob("scalingdoc.py"))
    script = SCRIPT.replace("NAMED", repr(str(based.relative_to(ROOT / "configs"))))
    environment = os.environ | {"PYTHONPATH": str(site)}
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=elsewhere, env=environment, check=True, text=True,
        stdout=subprocess.PIPE,
    ).stdout  # fmt: skip
    found = json.loads(said)
    assert Path(found["package"]).is_relative_to(site)
    assert Path(found["folder"]) == site / "scalingnote_jax" / "configs"
    assert found["names"] == {"quickstart": "quickstart", "scalingdoc": "scalingdoc"}
