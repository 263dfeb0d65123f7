"""Making a ScaNN index of a vector store: part by part under a memory cap, tuned to a target.

With a target the index is built in a few variants (`tuning.VARIANTS`); each is searched as it will
be served, from disk, for ten documents and for as many as the evaluation asks for. The fastest that
finds enough of both is kept, with the whole curve in its manifest. Searching is in
`scann_index.py`.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import EncodeConfig, IndexConfig
from scalingnote_jax.config.towers import BY_VECTORS
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import file_hash
from scalingnote_jax.progress import say
from scalingnote_jax.retrieval.engines.opening import build_other
from scalingnote_jax.retrieval.exact import check_finite, check_unit
from scalingnote_jax.retrieval.scann.scann_index import DEFAULT_K, ScannIndex
from scalingnote_jax.retrieval.scann.scann_library import (
    build_searcher,
    import_scann,
    rule_of_thumb,
)
from scalingnote_jax.retrieval.tuning import (
    REORDER_FACTORS,
    Held,
    Point,
    choose,
    curve,
    merit,
    steps_to,
    variants,
    with_choice,
)
from scalingnote_jax.vectors.encoder import load_encoder
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.vectors.trained import TrainedTower
from scalingnote_jax.workflow.artefact import (
    file_entry,
    partial_folder,
    put_in_place,
    write_manifest,
)
from scalingnote_jax.workflow.engine import Place


@dataclass(frozen=True)
class TuningQueries:
    """Where the queries come from that an index is tuned with: those of the dev split, else of the
    train split; never of the test split.

    Attributes:
        tower: encodes them.
        data: the folder of the collection.
        seed: draws them.
    """

    tower: TrainedTower
    data: Path
    encode: EncodeConfig
    seed: int

    def vectors(self, most: int, mesh: Mesh) -> np.ndarray | None:
        """[at most `most`, D] unit vectors; None where there are no such queries, or no tower."""
        if self.tower.cfg.weights == BY_VECTORS:
            return None
        collection = Collection.open(self.data)
        judged = {s: set(collection.qrels(s)) for s in ("dev", "train") if s in collection.splits}
        ids = next((found for found in judged.values() if found), set())
        places = [i for i, name in enumerate(collection.query_ids) if name in ids]
        if not places:
            return None
        drawn = np.random.default_rng(self.seed).permutation(len(places))[:most]
        chosen = {collection.query_ids[places[i]] for i in drawn}
        texts = [q.text for q in collection.queries if q.id in chosen]
        encoder = load_encoder(self.tower, self.encode, mesh)
        return encoder.unit(encoder.encode(texts))


def make_index(
    vectors: Path, cfg: IndexConfig, depth: int, place: Place, queries: TuningQueries
) -> None:
    """Builds the index of the vectors in a folder, in `place.folder`; `depth` as in
    `EvalConfig`.
    """
    store = VectorStore.open(vectors)
    if cfg.engine != "scann":
        if mesh_lib.first_process():
            build_other(store, cfg, place.folder)
        return
    needed = needs_queries(len(store), cfg)
    found = queries.vectors(cfg.tuning_queries, place.mesh) if needed else None
    if mesh_lib.first_process():
        build_index(store, cfg, place.folder, found, (DEFAULT_K, depth))


def library(settings: Any) -> str:
    """What an index is made with: one of another version of ScaNN is not read."""
    if settings.index.engine != "scann":
        return str(settings.index.engine)
    try:
        return version("scann")
    except PackageNotFoundError:
        return ""


def content(folder: Path) -> str:
    """The content hash of an index."""
    return file_hash(folder / "manifest.json")


def build_index(
    store: VectorStore,
    cfg: IndexConfig,
    out_dir: str | Path,
    queries: np.ndarray | None = None,
    depths: Sequence[int] = (DEFAULT_K,),
) -> None:
    """Builds the index of a store's vectors and writes it to `out_dir`, replacing what is there.

    At most `cfg.max_shard_rows` vectors are in memory at once while it is built; tuning and serving
    hold the whole index.

    Args:
        queries: [m, D] unit vectors of real queries, for tuning; none: documents stand in for them,
            each left out of its own results.
        depths: each k that it is tuned for.

    Raises:
        UserError: ScaNN is not installed, the queries do not fit, or the vectors are not of
            length 1.
    """
    if not store.manifest.get("normalised", True):
        fix = "name the folder of a side's vectors, such as embeddings/teacher-doc"
        raise bad_input(str(store.dir), "vectors as a tower gives them", "unit vectors", fix)
    if queries is not None:
        if queries.ndim != 2 or queries.shape[1] != store.dim:
            raise bad_input(
                "queries",
                f"vectors of shape {queries.shape}",
                f"(q, {store.dim}), as the documents' are",
                "encode both with towers of one teacher",
            )
        check_finite(queries, "queries")
        check_unit(queries, "queries")
    import_scann()
    out_dir = Path(out_dir)
    partial = partial_folder(out_dir)
    try:
        manifest = _make(store, cfg, partial, queries, depths)
        write_manifest(partial, manifest)
        put_in_place(partial, out_dir)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def needs_queries(n: int, cfg: IndexConfig) -> bool:
    """Whether an index of n vectors is tuned: brute force has nothing to tune."""
    smallest = min(b - a for a, b in part_bounds(n, cfg.max_shard_rows))
    return cfg.target_recall > 0 and rule_of_thumb(smallest, cfg)["kind"] != "brute_force"


def part_bounds(n: int, most: int) -> list[tuple[int, int]]:
    """[start, stop) of the fewest parts of at most `most` rows each (0: one part), as equal as can
    be.
    """
    parts = math.ceil(n / most) if most else 1
    edges = [n * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _make(
    store: VectorStore,
    cfg: IndexConfig,
    folder: Path,
    queries: np.ndarray | None,
    depths: Sequence[int],
) -> dict[str, Any]:
    bounds = part_bounds(len(store), cfg.max_shard_rows)
    settings = rule_of_thumb(min(b - a for a, b in bounds), cfg)
    head = {"count": len(store), "dim": store.dim, "scann": version("scann")}
    head["store"] = store.fingerprint
    if not needs_queries(len(store), cfg):
        return head | describe(settings, build_parts(store, bounds, settings, folder, "scann"))
    held = Held.sample(store.on_disk(), queries, cfg.tuning_queries, depths)
    points: list[Point] = []
    kept: tuple[list[Point], list[dict[str, Any]]] | None = None
    for number, variant in enumerate(variants(settings)[: cfg.tuning_builds]):
        parts = build_parts(store, bounds, variant, folder, f"scann{number}")
        found = _tune(head | describe(variant, parts), folder, held, cfg.target_recall)
        points += found
        best = [choose([p for p in found if p.k == k], cfg.target_recall) for k in held.depths]
        if kept and merit(best, cfg.target_recall) <= merit(kept[0], cfg.target_recall):
            _remove(folder, parts)
            continue
        if kept is not None:
            _remove(folder, kept[1])
        kept = best, parts
    assert kept is not None, "tuning_builds is at least 1"
    _say(kept[0], held, cfg.target_recall)
    tuning = {
        "target_recall": cfg.target_recall,
        "tuned_on": f"{len(held.queries)} {held.origin}",
        "tuning": with_choice(points, kept[0]),
        "depths": [{"k": p.k, **_at_search(p.settings)} for p in kept[0]],
    }
    return head | describe(kept[0][0].settings, kept[1]) | tuning


def _at_search(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that each search may choose anew."""
    return {name: settings[name] for name in ("leaves_searched", "reorder") if name in settings}


def build_parts(
    store: VectorStore,
    bounds: list[tuple[int, int]],
    settings: dict[str, Any],
    folder: Path,
    prefix: str,
) -> list[dict[str, Any]]:
    """Builds each part and writes it into `folder`; only one is in memory at a time. Returns the
    manifest's "parts".
    """
    vectors = store.vectors() if len(bounds) == 1 else store.on_disk()
    searchers = (build_searcher(vectors[start:stop], settings) for start, stop in bounds)
    return write_parts(searchers, folder, prefix)


def write_parts(searchers: Any, folder: Path, prefix: str) -> list[dict[str, Any]]:
    """Writes searchers, one folder each, and returns the manifest's "parts"."""
    parts = []
    for number, searcher in enumerate(searchers):
        path = folder / f"{prefix}-{number:03d}"
        path.mkdir()
        searcher.serialize(str(path), True)  # relative paths inside, so that it can be moved
        files = [file_entry(file) for file in sorted(path.iterdir())]
        parts.append({"folder": path.name, "rows": searcher.size(), "files": files})
    return parts


def describe(settings: dict[str, Any], parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The manifest's fields of an index of these parts. ScaNN holds all of its files in memory, so
    `memory_bytes` is their sum too, without the lists of the tree.
    """
    size = sum(entry["bytes"] for part in parts for entry in part["files"])
    sizes = {"memory_bytes": size, "disk_bytes": size}
    return {"kind": settings["kind"], "settings": settings, **sizes, "parts": parts}


def _tune(manifest: dict[str, Any], folder: Path, held: Held, target: float) -> list[Point]:
    """The curves of an index that was just written, settings under their own names."""
    scann = import_scann()
    parts = [scann.load_searcher(str(folder / p["folder"])) for p in manifest["parts"]]
    index, settings = ScannIndex(manifest, parts), manifest["settings"]

    def named(wide: int, deep: int) -> dict[str, Any]:
        tree = {"leaves_searched": wide} if "leaves" in settings else {}
        return settings | tree | {"reorder": deep}

    def search(queries: np.ndarray, k: int, wide: int, deep: int) -> np.ndarray:
        index.use([{"k": k, **named(wide, deep)}])
        return index.search(queries, k)[1]

    points = []
    for k in held.depths:
        deep = sorted({min(k * factor, len(index)) for factor in REORDER_FACTORS})
        points += curve(held, k, search, steps_to(settings.get("leaves", 1)), deep, target)
    return [replace(p, settings=named(**p.settings)) for p in points]


def _remove(folder: Path, parts: list[dict[str, Any]]) -> None:
    for part in parts:
        shutil.rmtree(folder / part["folder"])


def _say(best: list[Point], held: Held, target: float) -> None:
    for p in best:
        tuned = {k: v for k, v in p.settings.items() if k != "kind"}
        told = ", ".join(f"{name} {value}" for name, value in tuned.items())
        missed = "" if p.reaches(target) else f" (no setting surely reaches {target:g})"
        say(
            f"index: recall@{p.k} {p.recall:.3f}{missed} at {p.queries_per_sec:.0f} queries/s on "
            f"{len(held.queries)} held {held.origin}: {told}"
        )
