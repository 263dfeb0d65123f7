"""Loading a model takes the memory of this process's own shards and little more; measured on
processes of their own, as the system counts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import LLAMA_CONFIG, write_shards

V, E, F, LAYERS = 32768, 768, 3072, 4
CHILD = """
import hashlib, json, sys
import jax
import numpy as np
from pathlib import Path
from scalingnote_jax.config import MeshConfig, TowerConfig
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.devices.sharding import shardings_of
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.models.weights.placing import place

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

ref, fsdp, tensor = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
mesh = make_mesh(MeshConfig(fsdp=fsdp, tensor=tensor))
tower = tower_def(TowerConfig(weights=ref, projection=64))
shapes, axes = map(flatten, tower.abstract())
shardings = shardings_of(shapes, axes, mesh)
drawn = {"projection": flatten(tower.stored_params(0))["projection"]}
place(drawn, shardings)  # what the compiler takes is not the weights'
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = memory("VmRSS")
placed = jax.block_until_ready(place(flatten(tower.stored_params(0)), shardings))
peak = memory("VmHWM") - before
own = sum(s.data.nbytes for x in placed.values() for s in x.addressable_shards)
largest = max(x.nbytes for x in placed.values())
parts = hashlib.sha256()
for path in sorted(placed):
    parts.update(np.asarray(placed[path]))
print(json.dumps({"peak": peak, "own": own, "largest": largest, "hash": parts.hexdigest()}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 MiB of weights in two shards; the embedding table is 96 of them."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not count the peak of a process's memory anew")
    rng, shapes = np.random.default_rng(0), {"embed_tokens.weight": (V, E), "norm.weight": (E,)}
    for i in range(LAYERS):
        shapes |= {f"layers.{i}.{n}_layernorm.weight": (E,) for n in ("input", "post_attention")}
        shapes |= {f"layers.{i}.self_attn.{n}_proj.weight": (E, E) for n in "qkvo"}
        shapes |= {f"layers.{i}.mlp.{n}_proj.weight": (F, E) for n in ("gate", "up")}
        shapes |= {f"layers.{i}.mlp.down_proj.weight": (E, F)}
    sizes = {"vocab_size": V, "hidden_size": E, "intermediate_size": F, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 12}
    tensors = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("memory") / "model"
    return Path(write_shards(path, LLAMA_CONFIG | sizes | heads, tensors))


def load(folder: Path, fsdp: int, tensor: int) -> dict[str, Any]:
    flags = f"--xla_force_host_platform_device_count={fsdp * tensor}"
    # Threads of the matrix library wait in loops where eight devices share two cores.
    env = os.environ | {"XLA_FLAGS": flags, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(folder), str(fsdp), str(tensor)]
    out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_a_model_is_never_twice_in_memory(folder: Path) -> None:
    one, eight = load(folder, 1, 1), load(folder, 4, 2)
    for found in (one, eight):
        assert found["largest"] == 4 * V * E
        assert found["own"] > 240 * 2**20  # of all devices; a CPU device's memory is this process's
        assert found["peak"] - found["own"] <= 1.3 * found["largest"]
    assert one["hash"] == eight["hash"]
