"""The devices: joining a multi-process job, and the one mesh. No other file asks JAX for devices.

Axes, slowest network first: `slice` splits the batch over the slices of a multi-slice job, which
only the data-centre network (DCN) joins; inside a slice `data` splits the batch; `fsdp` splits the
batch and the weights; `tensor` splits heads, feed-forward and vocabulary. They are auto axes (the
compiler places collectives), not the explicit ones that `jax.make_mesh` makes by default.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scalingnote_jax import progress
from scalingnote_jax.config import MeshConfig
from scalingnote_jax.devices import together
from scalingnote_jax.devices.connection import Connection
from scalingnote_jax.devices.job import Job, find_job
from scalingnote_jax.devices.rendezvous import FAILED, FAILED_TIMEOUT_SECS, meet
from scalingnote_jax.devices.tpu_flags import use_flags
from scalingnote_jax.errors import UserError, bad_input

T = TypeVar("T")

AXES = ("slice", "data", "fsdp", "tensor")
BATCH_AXES = ("slice", "data", "fsdp")
BATCH = PartitionSpec(BATCH_AXES)

# Containers of one job may start minutes apart.
START_TIMEOUT_SECS = 300
# Above the limits of `together.py`, which names who is lost: JAX ends the process with many lines
JAX_HEARTBEAT_SECS = 600
JAX_SHUTDOWN_SECS = 60  # all are there: they have left together
# Compiled programs survive the process: a restart after preemption, and the second run of a config,
# start at once. JAX's own variables name another folder and another limit.
COMPILED = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "scalingnote_jax" / "compiled"
COMPILE_CACHED_FROM_SECS = 0.2
# Transfers that do not depend on each other are otherwise started as they come: each CPU device may
# take another one first, and with few cores all wait for one another for ever.
CPU_IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def start() -> None:
    """Sets up JAX for this process: call once, before any other use of it. Joins the multi-process
    job that the process is part of, if any, and keeps compiled programs on disk.

    The job is found by `job.find_job`: local processes, Slurm, GKE, Cloud TPU VMs.

    Raises:
        UserError: hosts of the job did not come in `START_TIMEOUT_SECS`; they are named.
    """
    os.environ["XLA_FLAGS"] = f"{CPU_IN_ORDER} {os.environ.get('XLA_FLAGS', '')}"
    use_flags()
    keep_programs(COMPILE_CACHED_FROM_SECS)
    job = find_job(START_TIMEOUT_SECS)
    together.expected = False
    if job is not None:
        _join(job)
    if jax.process_index() != 0:
        progress.quiet()


def keep_programs(from_secs: float) -> None:
    """Keeps compiled programs on disk that took this long; the environment may say otherwise."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(COMPILED.expanduser()))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", from_secs)


def _join(job: Job) -> None:
    # JAX's own start ends the process when somebody is late, so we look first.
    lines: dict[int, Connection] = {}
    meet(job, START_TIMEOUT_SECS, kept=lines)
    if job.count > 1:
        together.join(job, lines)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # `together` spreads signals
    _wait_before_abort()
    jax.distributed.initialize(
        job.coordinator,
        job.count,
        job.index,
        job.local_devices,
        cluster_detection_method="deactivate",  # it would leave Slurm's tasks one GPU of all
        initialization_timeout=START_TIMEOUT_SECS,
        heartbeat_timeout_seconds=JAX_HEARTBEAT_SECS,
        shutdown_timeout_seconds=JAX_SHUTDOWN_SECS,
    )


def _wait_before_abort() -> None:
    """JAX aborts a process whose process 0 is gone, from a thread of its own. The abort waits here
    until `together`, which finds out at the same moment, has said who is lost and has ended the
    process. It waits in C, as Python's handlers do not run in that thread: `sleep` takes the
    signal's number, 6, for seconds. What JAX prints before cannot be held back.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


def tell_failure(line: str) -> None:
    """Says to the other processes of the job, if there is one, that this one will not take part:
    they wait for it at the start.
    """
    with suppress(UserError):  # who does not come either will see for themselves
        job = find_job(FAILED_TIMEOUT_SECS)
        if job is not None:
            meet(job, FAILED_TIMEOUT_SECS, {FAILED: line})


def make_mesh(cfg: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all devices of the job, or over `devices`.

    Raises:
        UserError: the sizes do not multiply to the number of devices, or `slice` is not the number
            of slices that they form.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = mesh_sizes(cfg, len(devices))
    slices = len({getattr(d, "slice_index", None) or 0 for d in devices})
    if slices > 1 and sizes["slice"] != slices:
        raise bad_input(
            "--mesh.slice",
            f"{sizes['slice']} for devices in {slices} slices",
            "the number of slices: every other axis must stay inside one",
            f"set --mesh.slice={slices}",
        )
    return Mesh(_in_network_order(devices, tuple(sizes.values()), slices), AXES)


def mesh_sizes(cfg: MeshConfig, count: int) -> dict[str, int]:
    """Axis → size over `count` devices, in the order of `AXES`.

    Raises:
        UserError: the sizes do not multiply to `count`.
    """
    sizes = {axis: getattr(cfg, axis) for axis in AXES}
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or any(size == 0 or size < -1 for size in sizes.values()):
        raise bad_input(
            "--mesh", str(sizes), "sizes ≥ 1, at most one of them -1", "set the other axes"
        )
    if free:
        sizes[free[0]] = count // fixed
    if math.prod(sizes.values()) != count:
        raise bad_input(
            "--mesh",
            f"{' × '.join(f'{a}={s}' for a, s in sizes.items())} on {count} devices",
            f"a product of {count}",
            "set --mesh.data=-1 for the rest, and fsdp and tensor to divisors of the device count",
        )
    return sizes


def _in_network_order(devices: list[Any], shape: tuple[int, ...], slices: int) -> np.ndarray:
    """Devices [slice, data, fsdp, tensor] so that neighbours on an axis are neighbours in the
    network: JAX knows the torus of each chip.
    """
    cores = {getattr(d, "core_on_chip", 0) for d in devices}
    if devices[0].platform != "tpu" or len(cores) > 1:  # JAX has no order for two cores of a chip
        devices = sorted(devices, key=lambda d: getattr(d, "slice_index", None) or 0)
        return np.asarray(devices).reshape(shape)
    inside, across = (1, *shape[1:]), (slices, *(1 for _ in shape[1:]))
    if slices > 1:
        return mesh_utils.create_hybrid_device_mesh(
            inside, across, devices, allow_split_physical_axes=True
        )
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over all axes but `tensor`; all other dimensions whole."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the mesh splits a batch: a batch size must be a multiple of it."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def own_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Which of the `rows` of a batch the devices of this process hold, ascending.

    Not always one run of rows: the hosts of a TPU are squares of its torus, which the mesh walks
    line by line. And processes that the `tensor` axis joins hold the same rows.
    """
    return np.concatenate([np.arange(*run) for run in _runs(mesh, rows)[jax.process_index()]])


def batch_part(mesh: Mesh) -> tuple[int, int]:
    """Which part of a batch this process feeds, and how many parts there are.

    Raises:
        UserError: the rows of two processes overlap, but are not the same.
    """
    runs = _runs(mesh, batch_shards(mesh))
    parts = sorted({tuple(held) for held in runs.values()})
    if sum(map(len, parts)) != batch_shards(mesh):
        raise bad_input(
            "--mesh.tensor",
            f"{mesh.shape['tensor']} on processes of {len(mesh.local_devices)} devices",
            "a divisor or a multiple of a process's devices",
            "choose another",
        )
    return parts.index(tuple(runs[jax.process_index()])), len(parts)


def _runs(mesh: Mesh, rows: int) -> dict[int, list[tuple[int, int]]]:
    """Process → the runs of rows of a batch that its devices hold, (start, stop), ascending."""
    held: dict[int, set[tuple[int, int]]] = {}
    device: Any
    for device, index in batch_sharding(mesh).devices_indices_map((rows,)).items():
        assert index is not None
        start, stop, _ = index[0].indices(rows)
        held.setdefault(device.process_index, set()).add((start, stop))
    return {process: sorted(runs) for process, runs in held.items()}


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch → global arrays; they come to lie at `own_rows`."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items()}


def first_process() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return jax.process_index() == 0


def barrier(place: str) -> None:
    """Waits until all processes are here (nothing to wait for with one)."""
    if (job := together.current()) is not None:
        job.meet(place)


def first_decides(place: str, decide: Callable[[], T]) -> T:
    """What `decide` returns in the first process, in all of them: what a process reads of a shared
    disk itself may be older than what another one reads. Plain JSON; a tuple comes as a list.
    """
    if (job := together.current()) is None:
        return decide()
    decided: T = job.meet(place, decide() if first_process() else None)[0]
    return decided


def on_any_process(found: bool, place: str = "a question to all") -> bool:
    """Whether it is so on any process; all of them must ask. They then do the same, though each has
    looked at files of its own share or at another moment.
    """
    if (job := together.current()) is None:
        return found
    return any(job.meet(place, found))
