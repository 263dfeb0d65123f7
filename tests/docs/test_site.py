"""The README and the site: they build, and what they name exists. Not for whether what they say is
true.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "scalingnote_jax"
DOCS = ROOT / "docs"
TEXTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
FOLDERS = ("scalingnote_jax", "configs", "docs", "launch", "tests", ".ci", ".github")
FILES = [
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
] + [path.name for path in ROOT.iterdir() if path.is_file()]

LINK = re.compile(r"\]\(([^)\s]+)\)")
SOURCE_FILE = re.compile(r"(?<![\w/.*-])[\w./-]*\w\.(?:py|sh|yaml|toml)\b(?![\w(])")
DOCS_FILE = re.compile(r"(?<![\w/.])(?:docs/[\w/]+\.(?:md|svg|png)|launch/\w+\.\w+)\b")
ELSEWHERE = {"docs/algorithms.md"}  # ScaNN's own


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def exists(path: str) -> bool:
    """Whether a file of the repository ends in `path`: `train/loop.py` is one of the package's."""
    wanted = path.removeprefix("./")
    return any(file == wanted or file.endswith(f"/{wanted}") for file in FILES)


def is_placeholder(path: str) -> bool:
    return Path(path).stem.isupper()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for module in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(module)
    command = ["mkdocs", "build", "--strict", "--quiet", f"--site-dir={tmp_path / 'site'}"]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index.html", "results/index.html", "extend/loss-term/index.html"):
        assert (tmp_path / "site" / page).is_file()
    reference = (tmp_path / "site" / "reference" / "losses" / "index.html").read_text()
    assert "scalingnote_jax.losses.distill.stage2_loss" in reference


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    targets = {link.split("#")[0] for link in LINK.findall(path.read_text())}
    inside = {t for t in targets if t and "://" not in t and not t.startswith("mailto:")}
    # docs/results/reading.md becomes a part of docs/results.md
    folder = DOCS if path.parent == DOCS / "results" else path.parent
    assert not {t for t in inside if not (folder / t).exists()}


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_source_files_that_are_named_exist(path: Path) -> None:
    named = set(SOURCE_FILE.findall(path.read_text()))
    assert not {n for n in named if not is_placeholder(n) and not exists(n)}


def test_pages_that_the_code_names_exist() -> None:
    missing = {
        (file, page)
        for file in FILES
        if file.endswith((".py", ".sh", ".yaml", ".yml")) and file != name(Path(__file__))
        for page in DOCS_FILE.findall((ROOT / file).read_text())
        if page not in ELSEWHERE and not (ROOT / page).is_file()
    }
    assert not missing


def test_the_architecture_page_has_every_package_and_no_other() -> None:
    section = (DOCS / "architecture.md").read_text().split("## The packages")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)/`", "\n".join(re.findall(r"^\| .*? \|", section, re.M))))
    assert named == {p.parent.name for p in PACKAGE.glob("*/__init__.py")}


def test_the_reference_has_every_package() -> None:
    shown = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    packages = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(re.findall(r"^::: scalingnote_jax\.(\w+)$", shown, re.M))


def test_the_notebook_was_run_from_its_first_cell_to_its_last() -> None:
    text = (DOCS / "quickstart.ipynb").read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [out["output_type"] for cell in cells for out in cell["outputs"]]
    assert len(kinds) >= len(cells) - 1  # the first one only imports
    assert set(kinds) == {"stream"}
    assert not re.search(r"[\s\"'(]/(?:home|tmp|root|Users|mnt)/", text), "a path of one machine"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
