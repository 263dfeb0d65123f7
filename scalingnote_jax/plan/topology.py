"""The devices of a TPU slice that is not there: libtpu describes them, and compiles for them.

No other file knows how libtpu is asked. What it needs from the environment is read when it is
loaded, so `prepare_environment` comes before anything of JAX.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from scalingnote_jax.devices.chips import BY_NAME, CHIPS, Chip
from scalingnote_jax.errors import bad_input

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # nothing runs on the chips that are described
    "TPU_SKIP_MDS_QUERY": "1",  # no metadata server to ask what machine this is
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # plans may be made side by side: none holds a chip
    # What it would ask the server; without, it complains
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
_SHAPE = re.compile(r"\w+:[1-9]\d*(x[1-9]\d*){1,2}")  # libtpu ends the process at a zero
_AVAILABLE = re.compile(r"exceeds available HBM \(([\d.]+)([KMGT])\)")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Topology:
    """One or more equal slices.

    Attributes:
        name: "v5e:16x16"; of one slice.
        chip: its kind of chip.
        devices: JAX's devices of all slices.
        num_slices: joined by the data-centre network.
        devices_per_chip: 2 on tpu7x, otherwise 1.
    """

    name: str
    chip: Chip
    devices: Sequence[Any]
    num_slices: int
    devices_per_chip: int

    @property
    def num_chips(self) -> int:
        """Of all slices."""
        return len(self.devices) // self.devices_per_chip

    @property
    def extents(self) -> tuple[int, ...]:
        """Chips of a slice along each axis of the torus."""
        return tuple(max(c) + 1 for c in zip(*(d.coords for d in self.devices), strict=True))

    def is_ring(self, axis: int) -> bool:
        """Whether an axis of the slice closes, so that its end has two links as well."""
        if self.chip.torus_axes == 2:
            return self.extents[axis] % 16 == 0
        return all(extent % 4 == 0 for extent in self.extents)


def prepare_environment() -> None:
    """Tells libtpu and JAX that there is no TPU. Before the first import of JAX.

    Raises:
        UserError: libtpu is not installed.
    """
    if find_spec("libtpu") is None:
        raise bad_input(
            "scalingnote plan",
            "libtpu is not installed",
            "the compiler for TPUs (Linux x86-64; it needs no TPU)",
            "pip install 'scalingnote_jax[plan]'",
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def describe_slices(name: str, num_slices: int = 1) -> Topology:
    """The slices that a job would run on.

    Args:
        name: "CHIP:AxB" or "CHIP:AxBxC", the chips of one slice along each axis.
        num_slices: how many of them.

    Raises:
        UserError: no such chip, or a shape that it is not built in.
    """
    prepare_environment()
    from jax.experimental import topologies

    chip = BY_NAME.get(name.split(":")[0])
    examples = ", ".join(c.example for c in CHIPS)
    if chip is None or not _SHAPE.fullmatch(name) or num_slices < 1:
        given = f"{name!r}" if num_slices > 0 else f"{num_slices} slices"
        raise bad_input(
            "--topology", given, f"a TPU slice such as {examples}", "see the chips' documentation"
        )
    options: dict[str, Any] = {"num_slices": num_slices} if num_slices > 1 else {}
    if chip.name == "v4":  # its two cores as one device, as on the machines themselves
        options["chip_config_name"] = "megacore"
    try:
        devices: list[Any] = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        ).devices
    except Exception as e:  # libtpu's own complaint has the reason
        reason = str(e).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise bad_input(
            "--topology",
            f"{name!r} refused by libtpu ({reason})",
            f"a TPU slice such as {examples}",
            "choose one",
        ) from e
    assert devices[0].device_kind == chip.device_kind, devices[0].device_kind
    per_chip = len({d.core_on_chip for d in devices})
    return Topology(name, chip, devices, num_slices, per_chip)


def available_bytes(topology: Topology) -> int:
    """Memory of one device that a program may use, asked of the compiler itself: it names the
    figure when it refuses a program that cannot fit.
    """
    import jax
    from jax.sharding import SingleDeviceSharding

    place = SingleDeviceSharding(topology.devices[0])
    too_much = jax.ShapeDtypeStruct((2**40,), "float32", sharding=place)
    message = ""
    try:
        jax.jit(lambda x: x + 1, out_shardings=place).lower(too_much).compile()
    except jax.errors.JaxRuntimeError as e:
        message = str(e)
    found = _AVAILABLE.search(message)
    assert found, f"a program of 4 TiB was not refused as expected: {message}"
    return int(float(found[1]) * UNITS[found[2]])
