"""Checkpoints: what is not finite is not saved, what is not as it was saved is not used."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from scalingnote_jax.errors import UserError
from scalingnote_jax.models.weights.value_sums import sums_on_device, value_sums
from scalingnote_jax.train.checkpoint import TrainingCheckpoints
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.vectors.trained import weights_hash

MESH = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
META = {"inputs": "x"}


def state_of(value: float, moment: float = 0.0) -> TrainState:
    place = NamedSharding(MESH, P("a"))
    x = jax.device_put(jnp.arange(4096.0).reshape(64, 64) + value, place)
    return TrainState(jnp.int32(0), {"a/x": x}, {}, {"m": {"a/x": x * 0 + moment}})


def places() -> TrainState:
    here = NamedSharding(MESH, P("b"))
    return TrainState(NamedSharding(MESH, P()), {"a/x": here}, {}, {"m": {"a/x": here}})


def saved(folder: Path, *steps: int) -> Path:
    checkpoints = TrainingCheckpoints(folder / "checkpoints")
    for step in steps:
        checkpoints.save(state_of(step), step, META)
    checkpoints.close()
    return folder


def resumed(folder: Path, inputs: str = "x") -> tuple[int, float] | None:
    checkpoints = TrainingCheckpoints(folder / "checkpoints")
    try:
        found = checkpoints.resume(state_of(0), places(), inputs)
    finally:
        checkpoints.close()
    return found and (found[0], float(found[1].params["a/x"][0, 0]))


def harm(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 16
    path.write_bytes(bytes(data[: len(data) // 2] if how == "cut" else data))
    if how == "gone":
        path.unlink()


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_damaged_one_is_named_and_the_one_before_is_used(
    how: str, sealed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sealed` False: killed before the hashes of its files were written, so values alone speak."""
    first = saved(tmp_path / "first", 3, 6)
    assert resumed(first) == (6, 6.0)
    names = [p.relative_to(first) for p in (first / "checkpoints/6").rglob("*") if p.is_file()]
    data = [name for name in names if "/d/" in str(name) or name.name == "metadata"]
    for name in data:
        folder = Path(shutil.copytree(first, tmp_path / "copy"))
        if not sealed:
            (folder / "checkpoints/6/files-0-of-1.json").unlink()
        harm(folder / name, how)
        found = resumed(folder)
        if found != (6, 6.0):  # else it was a file that Orbax merges away and does not read
            assert found == (3, 3.0)
            assert "checkpoints/6: " in capsys.readouterr().err
            assert not (folder / "checkpoints/6").exists()
        else:
            assert not sealed, name
        shutil.rmtree(folder)


def test_none_is_whole(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3)
    (folder / "checkpoints/3/meta/metadata").write_text("{}")
    assert resumed(folder) is None
    assert (folder / "checkpoints/3.damaged").is_dir()


def test_of_other_inputs_is_refused_and_stays(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3)
    with pytest.raises(UserError, match=r"checkpoints/3: a checkpoint of another config"):
        resumed(folder, "y")
    assert resumed(folder) == (3, 3.0)


@pytest.mark.parametrize(("value", "moment"), [(np.nan, 0.0), (np.inf, 0.0), (0.0, np.nan)])
def test_what_is_not_finite_is_not_saved(value: float, moment: float, tmp_path: Path) -> None:
    folder = saved(tmp_path, 3)
    checkpoints = TrainingCheckpoints(folder / "checkpoints")
    with pytest.raises(UserError, match=r"after step 6, .*a/x.* holds NaN or infinity"):
        checkpoints.save(state_of(value, moment), 6, META)
    checkpoints.close()
    assert resumed(folder) == (3, 3.0)


def test_the_hash_of_weights_is_of_their_values(tmp_path: Path) -> None:
    a, b, c = (saved(tmp_path / n, s) for n, s in (("a", 3), ("b", 3), ("c", 4)))
    assert weights_hash(a) == weights_hash(b) != weights_hash(c)


@pytest.mark.parametrize(
    ("shape", "spec", "dtype"),
    [
        ((6, 8, 4), P("a", "b"), jnp.float32),
        ((16, 40, 30), P(None, "b", "a"), jnp.bfloat16),
        ((4, 300, 200), P("a"), jnp.int8),
        ((), P(), jnp.int32),
        ((0, 3), P(), jnp.float32),
    ],
)
def test_sums_are_the_same_on_each_mesh_and_backend(
    shape: tuple[int, ...], spec: P, dtype: jnp.dtype
) -> None:
    values = np.random.default_rng(1).normal(size=shape) * 50
    whole = jnp.asarray(values).astype(dtype)
    spread = jax.device_put(whole, NamedSharding(MESH, spec))
    lanes = [int(x) for x in jax.jit(sums_on_device)(spread)]
    wanted = f"{lanes[0]:08x}{lanes[1]:08x}"
    assert value_sums({"x": whole}).sums == value_sums({"x": spread}).sums == {"x": wanted}


def test_sums_see_one_bit_and_two_numbers_that_changed_places() -> None:
    x = jnp.arange(1000.0).reshape(10, 100)
    sums = value_sums({"x": x}).sums
    assert value_sums({"x": x.at[3, 4].set(-x[3, 4])}).sums != sums
    both = x.at[3, 4].set(-x[3, 4]).at[5, 6].set(-x[5, 6])
    assert value_sums({"x": both}).sums != sums
    swapped = x.at[0, 0].set(x[9, 9]).at[9, 9].set(x[0, 0])
    assert value_sums({"x": swapped}).sums != sums
    assert value_sums({"x": x.at[1, 1].set(jnp.nan)}).not_finite == ("x",)
