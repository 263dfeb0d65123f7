"""What `preflight.py` makes of what the hosts told, and what one host alone can see. Real hosts:
tests/multiprocess/test_preflight.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from scalingnote_jax.devices.rendezvous import Arrival

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "launch"))
import preflight


def told(**changes: Any) -> dict[str, Any]:
    facts = {"versions": {"jax": "1"}, "config": {"a": "1", "b": "2"}, "problems": [], "probe": ""}
    return facts | changes


def test_equal_hosts_have_no_problem(tmp_path: Path):
    arrivals = [Arrival(f"host {i}", told(), 0.5) for i in range(3)]
    assert preflight.judge(arrivals, tmp_path) == []


def test_the_odd_host_comes_last_and_the_many_are_counted(tmp_path: Path):
    arrivals = [Arrival(f"host {i}", told(), 0.0) for i in range(6)]
    arrivals[2] = Arrival("host 2", told(versions={"jax": "2"}), 0.0)
    (line,) = preflight.judge(arrivals, tmp_path)
    assert line == "jax differs: 1 on host 0, host 1, host 3, host 4 and 1 more; 2 on host 2"


def test_a_clock_that_is_off_is_a_line(tmp_path: Path):
    arrivals = [Arrival("host 0", told(), 0.0), Arrival("host 1", told(), -61.0)]
    (line,) = preflight.judge(arrivals, tmp_path)
    assert line.startswith("host 1: its clock is -61 s against host 0; expected within 10 s")


def test_a_host_without_a_config_is_not_compared(tmp_path: Path):
    broken = told(config={}, problems=["c.py: no such config file"])
    arrivals = [Arrival("host 0", told(), 0.0), Arrival("host 1", broken, 0.0)]
    assert preflight.judge(arrivals, tmp_path) == ["host 1: c.py: no such config file"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--mesh.fsdp=3", "slice=1 × data=2 × fsdp=3 × tensor=1 on 8 devices"),
        ("--train.batch_size=12", "--train.batch_size: 12 rows over 8 devices"),
        ("--min-free-gib=1000000000", "GiB free; expected 1e+09 GiB"),
        ("--workdir=gs://bucket/run", "--workdir: gs://bucket/run; expected a folder; mount"),
        ("--train.batch=3", "no such field"),
    ],
)
def test_what_one_host_alone_can_see(
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    said: str,
):
    words = [str(tiny_config), f"--workdir={tmp_path / 'w'}", "--min-free-gib=0", option]
    monkeypatch.setattr(sys, "argv", ["preflight.py", *words])
    assert preflight.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("preflight: ")
    assert said in line
