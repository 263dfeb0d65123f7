"""Looks at every host of a job before the first compile, and says in one line each what is wrong.

    python launch/preflight.py CONFIG --workdir=… [--section.field=value …]

takes the words of the `scalingnote run` that follows it, is started on every host as that will be,
and ends on all of them with exit code 0, or 2 when something is wrong anywhere: hosts that did not
come, versions, sources or configs that differ, a workdir that is full, read-only or not shared,
clocks apart, a mesh that does not fit the devices. It compiles nothing and leaves nothing behind
but the workdir.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import uuid
from collections import Counter
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import scalingnote_jax
from scalingnote_jax.config import Config
from scalingnote_jax.config.load import load_config
from scalingnote_jax.config.values import field_values
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.devices.job import find_job
from scalingnote_jax.devices.rendezvous import Arrival, meet
from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.hashing import content_hash, file_hash
from scalingnote_jax.startup import check_batches
from scalingnote_jax.workflow.workdir import Workdir

GIB = 2**30
PACKAGES = (
    "jax",
    "jaxlib",
    "libtpu",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "scalingnote_jax",
)
# More than a network's delay, less than what confuses logs and signed requests.
CLOCK_SECS = 10.0
MAX_NAMED = 4  # hosts in a line


def versions() -> dict[str, str]:
    """What must be the same on every host for the same program to be compiled there."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found | {"source of scalingnote_jax": _source()}


def _source() -> str:
    """The commit, where there is one, and a hash of the files that are really imported."""
    folder = Path(scalingnote_jax.__file__).parent
    files = sorted(folder.rglob("*.py"))
    content = content_hash([[p.relative_to(folder).as_posix(), file_hash(p)] for p in files])
    commit = ""
    with suppress(OSError):
        git = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return f"{commit or 'no commit'}, files {content[:8]}"


def probe(workdir: Path, min_free_gib: float) -> str:
    """Writes a small file into `workdir`; its name.

    Raises:
        UserError: it cannot be written, or less than `min_free_gib` is free.
    """
    name = f".preflight-{uuid.uuid4().hex}"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / name).write_text("here")
        free_gib = shutil.disk_usage(workdir).free / GIB
    except OSError as e:
        raise bad_input(
            f"--workdir={workdir}",
            f"cannot be written ({e.strerror})",
            "a folder for every host to write to",
            "correct its owner or its mount",
        ) from e
    if free_gib < min_free_gib:
        (workdir / name).unlink()
        raise bad_input(
            f"--workdir={workdir}",
            f"{free_gib:.1f} GiB free",
            f"{min_free_gib:g} GiB",
            "make room, or lower --min-free-gib",
        )
    return name


def judge(arrivals: list[Arrival], workdir: Path) -> list[str]:
    """What is wrong, in one line each; runs on process 0, with what every host told."""
    problems = [f"{a.name}: {line}" for a in arrivals for line in a.facts["problems"]]
    problems += _differences([(a.name, a.facts["versions"]) for a in arrivals])
    configs = [(a.name, a.facts["config"]) for a in arrivals if a.facts["config"]]
    fields = _differences(configs)
    if fields:
        more = f" (and {len(fields) - 1} more fields)" if len(fields) > 1 else ""
        problems.append(f"the configs differ: {fields[0]}{more}")
    problems += [
        f"{a.name}: its clock is {a.clock_ahead_secs:+.0f} s against host 0; "
        f"expected within {CLOCK_SECS:.0f} s; start its time service (chrony, ntpd)"
        for a in arrivals
        if abs(a.clock_ahead_secs) > CLOCK_SECS
    ]
    unseen = [
        a.name for a in arrivals if a.facts["probe"] and not (workdir / a.facts["probe"]).exists()
    ]
    if unseen:
        problems.append(
            f"--workdir={workdir}: not the same folder on {_some(unseen)} as on "
            f"{arrivals[0].name}; expected one shared by all hosts; "
            "mount the same NFS export or bucket there"
        )
    return problems


def _differences(told: list[tuple[str, dict[str, str]]]) -> list[str]:
    """One line for each key that is not the same everywhere, the most common value first."""
    lines = []
    for key in dict.fromkeys(key for _, values in told for key in values):
        hosts: dict[str, list[str]] = {}
        for name, values in told:
            hosts.setdefault(values.get(key, "none"), []).append(name)
        if len(hosts) > 1:
            groups = sorted(hosts.items(), key=lambda item: -len(item[1]))
            shown = "; ".join(f"{value} on {_some(names)}" for value, names in groups)
            lines.append(f"{key} differs: {shown}")
    return lines


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def check_hosts(args: argparse.Namespace, overrides: list[str]) -> Config:
    """Gathers this host's facts and has them compared with the others'.

    Raises:
        UserError: hosts are missing, or process 0 is.
        Problems: something is wrong on the hosts that came.
    """
    facts: dict[str, Any] = {"versions": versions(), "config": {}, "problems": [], "probe": ""}
    config = None
    workdir = Path(args.workdir or ".")
    # A host with a fault still comes to the meeting: else the others would call it missing.
    try:
        config = load_config(args.config, overrides)
        facts["config"] = {k: repr(v) for k, v in field_values(config).items()}
        workdir = Workdir(args.workdir or Path("runs") / config.name).root
        facts["probe"] = probe(workdir, args.min_free_gib)
    except UserError as e:
        facts["problems"].append(str(e))
    job = find_job(args.timeout_secs)
    try:
        if job is None:
            problems = judge([Arrival(platform.node(), facts, 0.0)], workdir)
        else:
            problems = meet(job, args.timeout_secs, facts, lambda all_: judge(all_, workdir))
    finally:
        if facts["probe"]:
            (workdir / facts["probe"]).unlink(missing_ok=True)
    if problems or config is None:
        raise Problems(problems)
    return config


class Problems(Exception):
    """Lines that say what is wrong."""


def check_devices(config: Config) -> str:
    """Starts JAX on all hosts and lays the config's mesh over their devices; one line that says
    what is there.

    Raises:
        UserError: the mesh or the batch does not fit, or hosts have different numbers of devices.
    """
    mesh_lib.start()
    mesh = mesh_lib.make_mesh(config.mesh)
    devices = list(mesh.devices.flat)
    counts = Counter(d.process_index for d in devices)
    usual = Counter(counts.values()).most_common(1)[0][0]
    odd = [f"host {i} has {n}" for i, n in sorted(counts.items()) if n != usual]
    if odd:
        raise bad_input(
            "devices", _some(odd), f"{usual} as elsewhere", "look for a broken accelerator there"
        )
    check_batches(config, mesh)
    sizes = " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return f"{len(counts)} hosts, {len(devices)} × {devices[0].device_kind}, mesh {sizes}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", help="as for `scalingnote run`")
    parser.add_argument("--workdir", help="as for `scalingnote run`")
    parser.add_argument("--overwrite", action="store_true", help="taken and not used")
    parser.add_argument("--timeout-secs", type=int, default=300, help="how long to wait for hosts")
    parser.add_argument("--min-free-gib", type=float, default=10.0, help="in the workdir")
    args, overrides = parser.parse_known_args()
    try:
        print(f"preflight: ok: {check_devices(check_hosts(args, overrides))}")
        return 0
    except Problems as e:
        lines = e.args[0]
    except UserError as e:
        lines = [str(e)]
    for line in lines:
        print(f"preflight: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
