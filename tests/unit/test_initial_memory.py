"""Loading a model takes the memory of this process's own shards and little more; measured on
processes of their own, as the system counts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import LLAMA_CONFIG, write_shards

V, E, F, LAYERS = 32768, 768, 3072, 4
CHILD = """
import json, sys
import jax
from pathlib import Path
from scalingnote_jax.config import MeshConfig, TowerConfig
from scalingnote_jax.mesh import make_mesh
from scalingnote_jax.models.towers import tower_def
from scalingnote_jax.sharding import place, shardings_of
from scalingnote_jax.train.state import flatten

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

ref, fsdp, tensor = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
mesh = make_mesh(MeshConfig(fsdp=fsdp, tensor=tensor))
tower = tower_def(TowerConfig(weights=ref, projection=64))
shapes, axes = map(flatten, tower.abstract())
shardings = shardings_of(shapes, axes, mesh)
place({"warm": shapes["projection"]}, {}) if False else None
small = {"projection": flatten(tower.stored_params(0))["projection"]}
place(small, shardings)  # compiles: what that takes is not the weights'
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = memory("VmRSS")
placed = jax.block_until_ready(place(flatten(tower.stored_params(0)), shardings))
peak = memory("VmHWM") - before
own = sum(s.data.nbytes for x in placed.values() for s in x.addressable_shards)
largest = max(x.nbytes for x in placed.values())
total = float(sum(abs(x).sum() for x in placed.values()))
print(json.dumps({"peak": peak, "own": own, "largest": largest, "total": total}))
"""
