"""Which job a process finds itself in, from the environment that each kind of cluster gives it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from jax._src.clusters import cloud_tpu_cluster

from scalingnote_jax.devices.job import Job, expand_nodes, find_job
from scalingnote_jax.errors import UserError

CLUSTER_PREFIXES = ("SCALINGNOTE_", "SLURM_", "TPU_", "MEGASCALE_", "GCE_", "JAX_COORDINATOR")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(CLUSTER_PREFIXES):
            monkeypatch.delenv(name)


def set_env(monkeypatch: pytest.MonkeyPatch, **env: str) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with TPU chips."""
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch, tpu: None) -> Iterator[dict[str, str]]:
    """A Compute Engine metadata server that answers with what the test puts into the dict."""
    values: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = values.get(self.path.rsplit("/", 1)[1])
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
    monkeypatch.setattr(cloud_tpu_cluster.time, "sleep", lambda secs: None)
    yield values
    server.shutdown()
    server.server_close()


def test_a_laptop_is_alone():
    assert find_job(1) is None


def test_a_local_process_is_told(monkeypatch: pytest.MonkeyPatch):
    set_env(
        monkeypatch,
        SCALINGNOTE_COORDINATOR="127.0.0.1:5000",
        SCALINGNOTE_PROCESSES="3",
        SCALINGNOTE_PROCESS_ID="2",
    )
    assert find_job(1) == Job("127.0.0.1:5000", 3, 2)


def slurm(monkeypatch: pytest.MonkeyPatch, tasks: int, task: int, local: int) -> None:
    set_env(
        monkeypatch,
        SLURM_JOB_ID="4096",
        SLURM_STEP_NODELIST="gpu[01-02]",
        SLURM_NTASKS=str(tasks),
        SLURM_PROCID=str(task),
        SLURM_LOCALID=str(local),
    )


def test_a_slurm_task_per_node_takes_all_devices_of_its_node(monkeypatch: pytest.MonkeyPatch):
    slurm(monkeypatch, tasks=2, task=1, local=0)
    assert find_job(1) == Job("gpu01:61440", 2, 1, ("gpu01", "gpu02"), None)


def test_slurm_tasks_on_one_node_take_a_device_each(monkeypatch: pytest.MonkeyPatch):
    slurm(monkeypatch, tasks=4, task=3, local=1)
    hosts = ("gpu01", "gpu01", "gpu02", "gpu02")
    assert find_job(1) == Job("gpu01:61440", 4, 3, hosts, (1,))


@pytest.mark.parametrize("missing", ["SLURM_STEP_NODELIST", "SLURM_PROCID"])
def test_a_shell_inside_an_allocation_is_alone(monkeypatch: pytest.MonkeyPatch, missing: str):
    slurm(monkeypatch, tasks=4, task=0, local=0)
    monkeypatch.delenv(missing)
    assert find_job(1) is None


def test_a_slurm_step_of_one_task_is_alone(monkeypatch: pytest.MonkeyPatch):
    slurm(monkeypatch, tasks=1, task=0, local=0)
    assert find_job(1) is None


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("one", ["one"]),
        ("one,two", ["one", "two"]),
        ("gpu[01-03,7],login", ["gpu01", "gpu02", "gpu03", "gpu7", "login"]),
        ("a-b[8-10]", ["a-b8", "a-b9", "a-b10"]),
    ],
)
def test_node_lists(text: str, nodes: list[str]):
    assert expand_nodes(text) == nodes


def test_gke_one_slice(monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str]):
    set_env(monkeypatch, TPU_WORKER_HOSTNAMES="localhost,run-1.run", TPU_WORKER_ID="1")
    assert find_job(1) == Job("localhost:8482", 2, 1, ("localhost", "run-1.run"))


def test_gke_several_slices(monkeypatch: pytest.MonkeyPatch, tpu: None):
    # Nothing but the environment is asked: there is no metadata server here.
    set_env(
        monkeypatch,
        TPU_WORKER_HOSTNAMES="run-1-0,run-1-1",
        TPU_WORKER_ID="0",
        MEGASCALE_NUM_SLICES="2",
        MEGASCALE_SLICE_ID="1",
        MEGASCALE_COORDINATOR_ADDRESS="localhost:8080",
    )
    hosts = ("slice 0 worker 0", "slice 0 worker 1", "run-1-0", "run-1-1")
    job = find_job(1)
    assert job == Job("localhost:8482", 4, 2, hosts)
    assert job.name(3) == "host 3 (run-1-1)"


def test_a_notebook_with_a_tpu_is_alone(monkeypatch: pytest.MonkeyPatch, tpu: None):
    set_env(monkeypatch, TPU_PROCESS_ADDRESSES="local", TPU_WORKER_ID="0")
    assert find_job(1) is None


def test_tpu_vms_of_one_slice(metadata: dict[str, str]):
    metadata |= {
        "agent-worker-number": "1",
        "worker-network-endpoints": "a:0:127.0.0.1,b:1:127.0.0.2",
        "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-8'\n",
    }
    assert find_job(1) == Job("127.0.0.1:8482", 2, 1, ("127.0.0.1", "127.0.0.2"))


def test_tpu_vms_of_several_slices(metadata: dict[str, str]):
    metadata |= {
        "agent-worker-number": "0",
        "worker-network-endpoints": "10.0.0.3",
        "tpu-env": (
            "MEGASCALE_NUM_SLICES: '2'\n"
            "MEGASCALE_SLICE_ID: '1'\n"
            "MEGASCALE_COORDINATOR_ADDRESS: '127.0.0.1:8080'\n"
        ),
    }
    assert find_job(1) == Job("127.0.0.1:8482", 2, 1, ("slice 0 worker 0", "10.0.0.3"))


def test_a_single_tpu_vm_is_alone(metadata: dict[str, str]):
    metadata |= {"agent-worker-number": "0", "worker-network-endpoints": "10.0.0.3", "tpu-env": ""}
    assert find_job(1) is None


def test_a_coordinator_that_nobody_knows_is_one_line(
    monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str]
):
    set_env(monkeypatch, TPU_WORKER_HOSTNAMES="no-such-host.invalid,b", TPU_WORKER_ID="1")
    with pytest.raises(UserError, match=r"address no-such-host\.invalid.*was started at all"):
        find_job(0)
