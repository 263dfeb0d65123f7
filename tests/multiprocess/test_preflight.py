"""`launch/preflight.py` on real processes, each with its own environment, config or workdir."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / "launch"
PREFLIGHT = LAUNCH / "preflight.py"

sys.path.insert(0, str(LAUNCH))
from local_processes import free_port  # noqa: E402


class Host:
    """One process of a job of `count`, as a launcher would start it on that host."""

    def __init__(self, port: int, count: int, index: int, words: list[str], **env: str):
        job = {
            "SCALINGNOTE_COORDINATOR": f"127.0.0.1:{port}",
            "SCALINGNOTE_PROCESSES": str(count),
            "SCALINGNOTE_PROCESS_ID": str(index),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            "PYTHONPATH": str(REPOSITORY),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(PREFLIGHT), *words],
            env=os.environ | job | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, list[str]]:
        """Exit code, and the lines that preflight itself said."""
        out, err = self.process.communicate(timeout=60)
        lines = [x for x in (out + err).splitlines() if x.startswith("preflight: ")]
        assert lines, err[-2000:]
        return self.process.returncode, lines


def words(config: Path, workdir: Path, *more: str) -> list[str]:
    return [str(config), f"--workdir={workdir}", "--timeout-secs=30", "--min-free-gib=0", *more]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_all_is_well(tiny_config: Path, tmp_path: Path, count: int):
    launcher = [sys.executable, str(LAUNCH / "local_processes.py"), str(count), "--"]
    command = [*launcher, sys.executable, str(PREFLIGHT), *words(tiny_config, tmp_path / "w")]
    env = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    expected = f"preflight: ok: {count} hosts, {count} × cpu, mesh slice 1 × data {count}"
    assert expected in done.stdout
    assert list((tmp_path / "w").iterdir()) == []  # the probes are gone


@pytest.mark.slow
def test_missing_hosts_are_named_on_those_that_came(tiny_config: Path, tmp_path: Path):
    port = free_port()
    short = words(tiny_config, tmp_path, "--timeout-secs=8")
    hosts = [Host(port, 4, index, short) for index in (0, 2)]
    for host in hosts:
        code, (line,) = host.end()
        assert code == 2
        assert "2 of 4 hosts came in 8 s; missing: host 1, host 3" in line


@pytest.mark.slow
def test_a_missing_first_host_is_named(tiny_config: Path, tmp_path: Path):
    port = free_port()
    code, (line,) = Host(port, 2, 1, words(tiny_config, tmp_path, "--timeout-secs=3")).end()
    assert code == 2
    assert f"host 1 of 2: no answer from host 0 at 127.0.0.1:{port} in 3 s" in line


@pytest.mark.slow
def test_every_difference_between_hosts_is_a_line_on_each(tiny_config: Path, tmp_path: Path):
    # Host 1 has a package of another version, a field of the config of its own, and a workdir of
    # the same name that is another folder (here: seen from another current directory).
    package = tmp_path / "site" / "optax-9.9.9.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: optax\nVersion: 9.9.9\n")
    other = tmp_path / "other.py"
    other.write_text(
        tiny_config.read_text().replace("learning_rate=3e-3", "learning_rate=1e-3"),
    )
    port = free_port()
    first = Host(port, 2, 0, words(tiny_config, tmp_path / "a"))
    second = Host(
        port,
        2,
        1,
        words(other, tmp_path / "b"),
        PYTHONPATH=f"{package.parent}:{REPOSITORY}",
    )
    code, lines = first.end()
    assert (code, lines) == second.end()
    assert code == 2
    version, config, workdir = lines
    assert version.startswith("preflight: optax differs: ")
    assert "9.9.9 on host 1" in version
    assert "train.optim.learning_rate differs: 0.003 on host 0" in config
    assert "0.001 on host 1" in config
    assert "(and 1 more fields)" in config  # distill has it too
    assert "not the same folder on host 1" in workdir


@pytest.mark.slow
def test_a_fault_of_one_host_is_told_by_all(tiny_config: Path, tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    port = free_port()
    hosts = [
        Host(port, 2, 0, words(tiny_config, tmp_path / "w")),
        Host(port, 2, 1, words(tiny_config, blocked / "w")),
    ]
    for host in hosts:
        code, (line,) = host.end()
        assert code == 2
        assert line.startswith("preflight: host 1 (")
        assert "cannot be written (Not a directory)" in line


@pytest.mark.slow
def test_a_host_with_fewer_devices_is_named(tiny_config: Path, tmp_path: Path):
    port = free_port()
    hosts = [
        Host(
            port,
            3,
            index,
            words(tiny_config, tmp_path / "w"),
            XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}",
        )
        for index, devices in enumerate((2, 2, 1))
    ]
    for host in hosts:
        code, (line,) = host.end()
        assert code == 2
        assert "devices: host 2 has 1; expected 2 as elsewhere" in line
