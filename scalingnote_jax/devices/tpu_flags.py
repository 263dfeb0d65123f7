"""Which options of the TPU compiler a chip is used with: one table, for runs and for plans alike.

By default the compiler leaves many transfers of weights and gradients synchronous. What a person
has set in LIBTPU_INIT_ARGS stays as it is. Not for CPUs and GPUs: their options are XLA_FLAGS.
"""

from __future__ import annotations

import mmap
import os
import re
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "LIBTPU_INIT_ARGS"
Flags = dict[str, bool | int]

# Gradients along `data` are summed while the rest of the backward pass runs
_ALL_REDUCE: Flags = {
    "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    "xla_tpu_data_parallel_opt_different_sized_ops": True,
}
# Transfers run in pieces inside of products. Products that wait for one piece after another
# ("collective matmul") are the compiler's own choice.
_FUSED: Flags = {
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter": True,
    "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
    "xla_tpu_overlap_compute_collective_tc": True,
    "xla_enable_async_all_gather": True,
}
# The SparseCores carry transfers, and the products go on; a transfer has one of the two ways.
_OFFLOADED: Flags = {
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": False,
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": False,
    "xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter": False,
    "xla_tpu_enable_sparse_core_collective_offload_all_gather": True,
    "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": True,
    "xla_tpu_enable_sparse_core_collective_offload_all_reduce": True,
}
# What a fused product may hold in the fast memory, of 128 MiB on v6e and 64 MiB on a core of tpu7x
_VMEM = "xla_tpu_scoped_vmem_limit_kib"

FLAGS: dict[str, Flags] = {
    "v4": {**_ALL_REDUCE, **_FUSED},
    "v5e": {**_ALL_REDUCE, **_FUSED},
    "v5p": {**_ALL_REDUCE, **_FUSED},
    "v6e": {**_ALL_REDUCE, **_OFFLOADED, _VMEM: 96 * 1024},
    "tpu7x": {**_OFFLOADED, _VMEM: 48 * 1024},
}


def flags_of(chip: str) -> Flags:
    """Those of a chip that are not set by hand and that the installed libtpu has.

    Args:
        chip: its name, as in `chips.py`; one that the table lacks has none.
    """
    by_hand = set(re.findall(r"--(\w+)", os.environ.get(VARIABLE, "")))
    wanted = {name: value for name, value in FLAGS.get(chip, {}).items() if name not in by_hand}
    return {name: wanted[name] for name in _known(list(wanted))}


def use_flags() -> None:
    """On a host with TPUs, puts the chip's flags into LIBTPU_INIT_ARGS. libtpu reads it when JAX
    first asks for devices, so this comes before.
    """
    chip = attached_chip()
    if not chip:
        return
    words = [f"--{name}={str(value).lower()}" for name, value in flags_of(chip).items()]
    os.environ[VARIABLE] = " ".join([*words, os.environ.get(VARIABLE, "")]).strip()


def attached_chip() -> str:
    """The kind of TPU in this machine, as in `chips.py`; "" without one, or where JAX_PLATFORMS has
    other devices.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms.split(","):
        return ""
    from jax._src import hardware_utils  # JAX's own way to know it before it opens the TPU

    count, version = hardware_utils.num_available_tpu_chips_and_device_id()
    return str(version.name) if count and version is not None else ""


def _known(names: list[str]) -> list[str]:
    """Those that the installed libtpu has: it ends the process at one that it does not know."""
    spec = find_spec("libtpu")
    if spec is None or not spec.submodule_search_locations or not names:
        return []
    library = Path(next(iter(spec.submodule_search_locations))) / "libtpu.so"
    if not library.is_file():
        return []
    with library.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return [name for name in names if content.find(b"FLAGS_" + name.encode() + b"\0") >= 0]
