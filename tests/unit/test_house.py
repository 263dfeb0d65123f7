"""The order of the code: which file may import which, how long files and folders may be, one name
for one thing, and who may take the whole config. The layers of the packages are a contract of
import-linter (pyproject.toml); here is what it does not see.
"""

from __future__ import annotations

import ast
import functools
import graphlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "scalingnote_jax"
FILE_LINES, FOLDER_FILES = 300, 15
LINES = {"pipeline.py": 150, "cli.py": 200}  # files that are to be read on one screen or two

# Those that hold a whole config by their nature: it is made, and the steps are given their sections
# of it. A sweep lies above the pipeline and makes a config for each of its points.
# What reads a config, and what puts a run together: `run.py` and what stands above it
MAY_TAKE_CONFIG = {"config", "pipeline.py", "run.py", "startup.py", "sweep", "verbs.py", "cli.py"}


def modules() -> list[Path]:
    """The package's files, as paths from it."""
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


@functools.cache
def parsed(module: Path) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def assert_none(found: Iterable[str]) -> None:
    """Nothing found; or else all of it is listed, where pytest would cut a long list short."""
    listed = sorted(found)
    assert not listed, "\n  " + "\n  ".join(listed)


def homonyms(places: dict[str, list[Path]]) -> Iterator[str]:
    """What stands in more than one place."""
    for name, found in places.items():
        if len(found) > 1:
            yield f"{name}: {', '.join(map(str, found))}"


def test_no_circle_of_files():
    graph = grimp.build_graph("scalingnote_jax", cache_dir=None)  # TYPE_CHECKING included
    imports = {m: set(graph.find_modules_directly_imported_by(m)) for m in graph.modules}
    assert len(imports) == len(modules())
    circles = []
    while True:
        try:
            graphlib.TopologicalSorter(imports).prepare()
        except graphlib.CycleError as e:
            circle = e.args[1]
            circles.append(" ← ".join(name.removeprefix("scalingnote_jax.") for name in circle))
            imports[circle[1]].remove(circle[0])  # so that the next one is found
        else:
            break
    assert_none(circles)


def test_no_long_file():
    paths = [*PACKAGE.rglob("*.py"), *(ROOT / "configs").rglob("*.py"), *ROOT.glob("launch/*.py")]
    counts = {path.relative_to(ROOT): lines_of(path) for path in paths}
    assert_none(f"{path}: {n} lines" for path, n in counts.items() if n > FILE_LINES)


@pytest.mark.parametrize("name", LINES)
def test_the_files_on_one_screen(name: str):
    assert lines_of(PACKAGE / name) <= LINES[name]


def test_no_crowded_folder():
    folders = [PACKAGE, *(p for p in PACKAGE.rglob("*") if p.is_dir() and p.name != "__pycache__")]
    counts = {f.relative_to(ROOT): sum(p.is_file() for p in f.iterdir()) for f in folders}
    assert_none(f"{folder}: {n} files" for folder, n in counts.items() if n > FOLDER_FILES)


def test_tests_mirror_the_package():
    """A folder of unit tests has the name of the package that it tests."""
    folders = {p.parent.relative_to(ROOT / "tests/unit") for p in ROOT.glob("tests/unit/**/*.py")}
    assert_none(str(folder) for folder in folders if not (PACKAGE / folder).is_dir())


def test_no_two_modules_of_one_name():
    """Folders count too: a package is a module."""
    places = defaultdict(list)
    for module in modules():
        of_folder = module.name == "__init__.py"
        places[module.parent.name if of_folder else module.stem].append(module)
    assert_none(homonyms(places))


def test_no_two_public_classes_of_one_name():
    places = defaultdict(list)
    for module in modules():
        for node in parsed(module).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    assert_none(homonyms(places))


def parameters(tree: ast.AST) -> Iterator[tuple[str, ast.arg]]:
    """(function, parameter) of every function and method, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            yield from ((node.name, parameter) for parameter in named if parameter is not None)


def words_of(annotation: ast.expr | None) -> set[str]:
    """The names in an annotation, also in one that is written as a string."""
    found: set[str] = set()
    for node in ast.walk(annotation) if annotation is not None else ():
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= words_of(ast.parse(node.value, mode="eval").body)
    return found


def takers_of_config(tree: ast.AST) -> list[str]:
    return [name for name, given in parameters(tree) if "Config" in words_of(given.annotation)]


def test_takers_of_config_are_found():
    source = """
def plain(config: Config): ...
def quoted(x: "Config | None"): ...
class A:
    async def method(self, *, configs: list[config.Config]): ...
def other(config: TrainConfig) -> Config: ...
"""
    assert takers_of_config(ast.parse(source)) == ["plain", "quoted", "method"]


def test_a_step_takes_no_whole_config():
    """What was not handed over cannot be read, so no result can be stale."""
    assert_none(
        f"{module}: {name}"
        for module in modules()
        if module.parts[0] not in MAY_TAKE_CONFIG
        for name in takers_of_config(parsed(module))
    )
