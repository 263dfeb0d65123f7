"""Which multi-process job this process is part of, if any. Asked of the environment before JAX
touches a device; joining it is `rendezvous.py` and `mesh.start`.

Slurm steps, GKE (one slice or several) and Cloud TPU VMs are recognised by JAX's own detectors, so
that number, order and coordinator are the ones that JAX would choose. Its public entry joins at
once, without a word about who is missing, hence the detectors themselves.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from jax._src.clusters import ClusterEnv

from scalingnote_jax.errors import bad_input

# Set by launch/local_processes.py; on a cluster that is not recognised, set them per process.
COORDINATOR = "SCALINGNOTE_COORDINATOR"  # address:port of process 0
PROCESSES = "SCALINGNOTE_PROCESSES"
PROCESS_ID = "SCALINGNOTE_PROCESS_ID"

# JAX's names, in the order of asking. A detector that finds one process, as on a laptop in a
# one-task Slurm step or on a single TPU host, means: no job.
DETECTORS = ("slurm", "gketpu", "gcetpu")


@dataclass(frozen=True)
class Job:
    """A process's place among the others."""

    coordinator: str  # address:port, on the host of process 0
    count: int
    index: int
    hosts: tuple[str, ...] = ()  # of the processes 0 … count-1, as far as they are known
    # The accelerators that this process takes; None takes all of its host
    local_devices: tuple[int, ...] | None = None

    def name(self, index: int) -> str:
        """How a person finds process `index`."""
        return f"host {index} ({self.hosts[index]})" if self.hosts else f"host {index}"


def find_job(timeout_secs: int) -> Job | None:
    """The job that this process belongs to, or None where it is alone. Returns at once, except on
    TPU pods, where the coordinator's name may need `timeout_secs` to appear in the DNS.

    Raises:
        UserError: the coordinator's name is not in the DNS after `timeout_secs`, or a TPU VM's
            metadata server does not answer.
    """
    if COORDINATOR in os.environ:
        return Job(os.environ[COORDINATOR], int(os.environ[PROCESSES]), int(os.environ[PROCESS_ID]))
    kinds: dict[str, Any] = {kind.name: kind for kind in ClusterEnv._cluster_types}
    try:
        for name in DETECTORS:
            if kinds[name].is_env_present():
                return None if _alone(kinds[name]) else _from_cluster(kinds[name], timeout_secs)
    except (OSError, RuntimeError) as e:
        raise bad_input(
            "multi-host start",
            f"{type(e).__name__}: {e}",
            "the metadata server, and host 0's name in the DNS",
            "see whether host 0 was started at all",
        ) from e
    return None


def _alone(kind: Any) -> bool:
    if kind.name == "gketpu" and "MEGASCALE_NUM_SLICES" not in os.environ:
        # A notebook with a TPU looks like GKE, but has no metadata server to ask for slices.
        return len(kind._get_worker_list_in_slice()) == 1
    return bool(kind.get_process_count() == 1)


def _from_cluster(kind: Any, timeout_secs: int) -> Job:
    port = os.environ.get("JAX_COORDINATOR_PORT")
    coordinator = kind.get_coordinator_address(timeout_secs, port)
    count, index = kind.get_process_count(), kind.get_process_id()
    if kind.name != "slurm":
        return Job(coordinator, count, index, _tpu_hosts(kind, count, index))
    nodes = expand_nodes(os.environ["SLURM_STEP_NODELIST"])
    hosts = tuple(nodes[i * len(nodes) // count] for i in range(count))
    # With several tasks on a node each takes the accelerator of its own number.
    local = (int(os.environ["SLURM_LOCALID"]),) if count > len(nodes) else None
    return Job(coordinator, count, index, hosts, local)


def _tpu_hosts(kind: Any, count: int, index: int) -> tuple[str, ...]:
    """Names within this process's own slice; the other slices' are not told to it."""
    workers = kind._get_worker_list_in_slice()
    size = len(workers)
    return tuple(
        workers[i % size] if i // size == index // size else f"slice {i // size} worker {i % size}"
        for i in range(count)
    )


def expand_nodes(node_list: str) -> list[str]:
    """Slurm's "gpu[01-02,7],login" → ["gpu01", "gpu02", "gpu7", "login"]."""
    nodes = []
    for prefix, ranges in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?", node_list):
        if not ranges:
            nodes.append(prefix)
        for part in ranges.split(",") if ranges else ():
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last or first) + 1)
            nodes += [f"{prefix}{number:0{len(first)}d}" for number in numbers]
    return nodes
