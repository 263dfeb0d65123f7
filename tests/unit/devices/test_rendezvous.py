"""The meeting of a job's processes, played by threads."""

from __future__ import annotations

import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.devices.job import Job
from scalingnote_jax.devices.rendezvous import Arrival, meet
from scalingnote_jax.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "launch"))
from local_processes import free_port


def jobs(count: int, hosts: tuple[str, ...] = ()) -> list[Job]:
    address = f"127.0.0.1:{free_port()}"
    return [Job(address, count, index, hosts) for index in range(count)]


def test_process_0_hears_all_in_order_and_all_hear_its_answer():
    heard: list[Arrival] = []

    def judge(arrivals: list[Arrival]) -> list[str]:
        heard.extend(arrivals)
        return ["one", "two"]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda job: meet(job, 20, {"me": job.index}, judge), jobs(4)))
    assert answers == [["one", "two"]] * 4
    assert [a.facts["me"] for a in heard] == [0, 1, 2, 3]
    assert [a.name for a in heard] == [f"host {i} ({socket.gethostname()})" for i in range(4)]
    assert all(abs(a.clock_ahead_secs) < 1 for a in heard)


def test_the_port_is_free_again():
    job, other = jobs(2)
    for _ in range(2):
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda j: meet(j, 20), (job, other))) == [[], []]


def test_strangers_are_let_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scalingnote_jax.devices.rendezvous.STRANGER_SECS", 0.5)
    first, second = jobs(2)
    address = ("127.0.0.1", int(first.coordinator.split(":")[1]))
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(meet, first, 30)
        silent = connect(address)
        rude = connect(address)
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert pool.submit(meet, second, 30).result() == []
        assert waiting.result() == []
        silent.close()
        rude.close()


def connect(address: tuple[str, int]) -> socket.socket:
    """Tries until the listener is there."""
    for _ in range(200):
        try:
            return socket.create_connection(address)
        except ConnectionRefusedError:
            threading.Event().wait(0.02)
    raise AssertionError("nobody listens")


def test_of_many_missing_hosts_the_first_are_named():
    job = jobs(12, tuple(f"node{i}" for i in range(12)))[0]
    with pytest.raises(UserError) as error:
        meet(job, 0.1)
    assert "1 of 12 hosts came" in str(error.value)
    assert "missing: host 1 (node1), host 2 (node2)" in str(error.value)
    assert "host 8 (node8) and 3 more" in str(error.value)


def test_a_taken_port_is_one_line():
    job = jobs(2)[0]
    with (
        socket.create_server(("", int(job.coordinator.split(":")[1]))),
        pytest.raises(UserError, match=r"port \d+ on host 0: cannot listen .*earlier run"),
    ):
        meet(job, 5)


def test_a_start_without_the_others_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCALINGNOTE_COORDINATOR", jobs(2)[0].coordinator)
    monkeypatch.setenv("SCALINGNOTE_PROCESSES", "2")
    monkeypatch.setenv("SCALINGNOTE_PROCESS_ID", "0")
    monkeypatch.setattr(mesh_lib, "START_TIMEOUT_SECS", 1)
    with pytest.raises(UserError, match="1 of 2 hosts came in 1 s; missing: host 1"):
        mesh_lib.start()
