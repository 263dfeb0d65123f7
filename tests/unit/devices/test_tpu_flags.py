"""The compiler's options: put where libtpu reads them, on TPU hosts alone, and never over what a
person has set.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
from jax._src import hardware_utils

from scalingnote_jax.devices import tpu_flags
from scalingnote_jax.devices.chips import BY_NAME
from scalingnote_jax.devices.tpu_flags import FLAGS, VARIABLE, attached_chip, flags_of, use_flags

needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed")
OVERLAP = "xla_tpu_overlap_compute_collective_tc"


@pytest.fixture
def v5e(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four chips of v5e on the PCI bus, as JAX finds them; all flags known."""
    found = 4, hardware_utils.TpuVersion.v5e
    monkeypatch.setattr(hardware_utils, "num_available_tpu_chips_and_device_id", lambda: found)
    monkeypatch.setattr(tpu_flags, "_known", lambda names: names)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv(VARIABLE, "")


def test_every_chip_has_its_flags():
    assert FLAGS.keys() == BY_NAME.keys()


def test_on_a_host_with_tpus(v5e: None):
    use_flags()
    words = os.environ[VARIABLE].split()
    assert f"--{OVERLAP}=true" in words
    assert len(words) == len(FLAGS["v5e"])


def test_what_a_person_has_set_stays(v5e: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, f"--{OVERLAP}=false --xla_tpu_other=3")
    assert OVERLAP not in flags_of("v5e")
    use_flags()
    words = os.environ[VARIABLE].split()
    assert f"--{OVERLAP}=false" in words
    assert "--xla_tpu_other=3" in words
    assert sum(OVERLAP in word for word in words) == 1


@pytest.mark.parametrize("platforms", ["cpu", "cuda,cpu"])
def test_not_where_jax_is_told_to_use_something_else(
    v5e: None, monkeypatch: pytest.MonkeyPatch, platforms: str
):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert attached_chip() == ""
    use_flags()
    assert os.environ[VARIABLE] == ""


def test_not_without_a_tpu(v5e: None, monkeypatch: pytest.MonkeyPatch):
    found = 0, None
    monkeypatch.setattr(hardware_utils, "num_available_tpu_chips_and_device_id", lambda: found)
    use_flags()
    assert os.environ[VARIABLE] == ""


@needs_libtpu
def test_only_what_the_installed_libtpu_knows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setitem(FLAGS, "v5e", {OVERLAP: True, "xla_tpu_no_such_flag": True})
    assert flags_of("v5e") == {OVERLAP: True}
