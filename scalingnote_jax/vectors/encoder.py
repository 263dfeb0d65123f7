"""Texts → vectors by a tower of a finished run, on whatever mesh there is.

A tower is loaded only under the tokenisation contract that it was trained with. Vectors of a whole
corpus are kept by `encode.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, Sharding

from scalingnote_jax.config import EncodeConfig
from scalingnote_jax.config.towers import BY_VECTORS
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.devices.sharding import shardings_of
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.layers.params import Flat, flatten, nest
from scalingnote_jax.models.layers.stack import UNROLL_ONE_ROW_UP_TO
from scalingnote_jax.models.tower import TowerDef, tower_def
from scalingnote_jax.models.weights.placing import place
from scalingnote_jax.progress import Bar
from scalingnote_jax.text.contract import contract, tokens_of, tower_tokenizer
from scalingnote_jax.text.tokenizer import TextTokenizer
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.vectors.encode_batches import Batch, batches, rows_of
from scalingnote_jax.vectors.given_towers import read_given
from scalingnote_jax.vectors.trained import RunTowers, TrainedTower
from scalingnote_jax.workflow.workdir import damage, output_of

IN_FLIGHT = 2


def jit_apply(tower: TowerDef, mesh: Mesh) -> Any:
    """The tower's (params, tokens [B, L], mask [B, L]) → [B, D] float32 on the mesh, compiled per
    batch shape; every device gets all vectors.
    """
    apply = partial(tower.apply, rows=mesh_lib.batch_sharding(mesh))
    return jax.jit(apply, out_shardings=mesh_lib.replicated(mesh))


class OneText:
    """The tower for one text at a time on a CPU, where reading the weights is most of the work.

    Stacked, the weights of each layer would be copied out of the stack before they are multiplied
    with. Here they lie apart, and XLA sees through the stack that is made of them under jit.
    """

    def __init__(self, tower: TowerDef, params: dict[str, Any], mesh: Mesh):
        body = params["body"]
        self._layers = [
            jax.tree.map(lambda x, i=i: jnp.array(x[i]), body["layers"])
            for i in range(tower.shape.num_layers)
        ]
        self._others = {**params, "body": {k: v for k, v in body.items() if k != "layers"}}
        self._apply = jax.jit(partial(_apply_apart, tower, mesh_lib.replicated(mesh)))

    @staticmethod
    def pays(tower: TowerDef, mesh: Mesh) -> bool:
        """Whether it is worth the second copy of the layers: not of an LLM."""
        on_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
        return on_cpu and 0 < tower.shape.num_layers <= UNROLL_ONE_ROW_UP_TO

    def __call__(self, tokens: np.ndarray, mask: np.ndarray) -> jax.Array:
        """[1, L] each → [1, D]."""
        return self._apply(self._others, self._layers, tokens, mask)


def _apply_apart(
    tower: TowerDef,
    rows: Sharding,
    others: dict[str, Any],
    layers: list[Any],
    tokens: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *layers)
    params = {**others, "body": {**others["body"], "layers": stacked}}
    return tower.apply(params, tokens, mask, rows=rows)


class Encoder:
    """A tower with its weights on the mesh, and its tokenizer."""

    def __init__(
        self,
        tower: TowerDef,
        params: dict[str, Any],
        tokenizer: TextTokenizer,
        mesh: Mesh,
        batch_size: int,
        dim: int = 0,
    ):
        """`batch_size`, `dim`: as in `EncodeConfig`."""
        if not 0 <= dim <= tower.dim:
            given, expected = str(dim), f"0 (all) to {tower.dim}, the D of the tower"
            raise bad_input("--encode.dim", given, expected, "choose one of train.matryoshka")
        self.dim = dim or tower.dim
        self.tower, self.tokenizer, self.mesh = tower, tokenizer, mesh
        self.params = tower.in_use(params)
        self.text = tower.cfg.text
        shards = mesh_lib.batch_shards(mesh)
        self.batch_size = -(-rows_of(batch_size, mesh) // shards) * shards
        self._apply = jit_apply(tower, mesh)

    @property
    def contract(self) -> dict[str, Any]:
        """The tokenisation contract of the vectors that this encoder makes."""
        return contract(self.tower, self.tokenizer)

    def encode(self, texts: Sequence[str | tuple[str, str]]) -> np.ndarray:
        """[n, D] float32, before the L2 norm, of texts or (title, text) pairs."""
        if not len(texts):
            return np.empty((0, self.tower.dim), np.float32)
        pairs = [("", t) if isinstance(t, str) else t for t in texts]
        return self.encode_table(tokens_of(pairs, self.tower.cfg, self.tokenizer))

    def warm(self) -> None:
        """Compiles what single texts need, one of each length."""
        for length in self.text.buckets:
            self.encode_table(TokenTable.from_lists([[self.tokenizer.pad_id] * length]))

    def on(self, mesh: Mesh) -> Encoder:
        """The same tower with its weights on another mesh, of this process's devices. Every process
        takes part.
        """
        if mesh == self.mesh:
            return self
        put = partial(jax.device_put, device=mesh_lib.replicated(mesh))
        params = jax.tree.map(lambda x: put(_on_host(x)), self.params)
        given = self.tower, params, self.tokenizer, mesh, self.batch_size, self.dim
        return Encoder(*given)

    def unit(self, vectors: np.ndarray) -> np.ndarray:
        """[n, dim], the vectors for search, of what `encode` gives."""
        return unit_rows(vectors[:, : self.dim])

    def encode_table(
        self, table: TokenTable, rows: np.ndarray | None = None, bar: Bar | None = None
    ) -> np.ndarray:
        """[n, D] float32, before the L2 norm, of texts that are tokens already (`rows` of the
        table, or all).

        Which texts share a batch changes nothing in their vectors. Every process gets all of them.
        """
        rows = np.arange(len(table)) if rows is None else rows
        out = np.empty((len(rows), self.tower.dim), np.float32)
        running: deque[tuple[np.ndarray, jax.Array]] = deque()
        shards = mesh_lib.batch_shards(self.mesh)
        for batch in batches(table.lengths[rows], self.text, self.batch_size, shards):
            running.append((batch.places, self._launch(table, rows[batch.places], batch)))
            if len(running) > IN_FLIGHT:
                _collect(out, running, bar)
        while running:
            _collect(out, running, bar)
        return out

    def _launch(self, table: TokenTable, rows: np.ndarray, batch: Batch) -> jax.Array:
        if batch.size == 1 and OneText.pays(self.tower, self.mesh):
            return self._one_text(*table.take(rows, batch.length))
        padded = np.concatenate([rows, np.full(batch.size - len(rows), rows[0])])
        mine = padded[mesh_lib.own_rows(self.mesh, batch.size)]
        tokens, mask = table.take(mine, batch.length)
        put = mesh_lib.put_batch({"tokens": tokens, "mask": mask}, self.mesh)
        return self._apply(self.params, put["tokens"], put["mask"])

    @cached_property
    def _one_text(self) -> OneText:
        return OneText(self.tower, self.params, self.mesh)


def _on_host(weight: jax.Array) -> np.ndarray:
    """All of a weight, whichever processes hold it."""
    if weight.is_fully_addressable:
        return np.asarray(weight)
    return np.asarray(multihost_utils.process_allgather(weight, tiled=True))


def _collect(
    out: np.ndarray, running: deque[tuple[np.ndarray, jax.Array]], bar: Bar | None
) -> None:
    places, raw = running.popleft()
    out[places] = np.asarray(raw)[: len(places)]
    if bar is not None:
        bar.advance(len(places))


def load_encoder(tower: TrainedTower, cfg: EncodeConfig, mesh: Mesh) -> Encoder:
    """The encoder of a tower of a finished run. "student_int8" is the student that is shipped, with
    linear weights in int8 and the others in bfloat16.

    Raises:
        UserError: no checkpoint yet, one of another shape, or one whose tokenisation contract is
            not the config's.
    """
    if tower.cfg.weights == BY_VECTORS:
        field, fix = f"--teacher.{tower.side}.weights", "name the tower there, or leave this out"
        raise bad_input(field, "a tower that is not here", "one to encode texts with", fix)
    definition, tokenizer = tower_def(tower.cfg), tower_tokenizer(tower.cfg)
    shapes, axes = definition.abstract()
    shardings = shardings_of(flatten(shapes), flatten(axes), mesh)
    as_they_come = tower.folder and read_given(tower.folder)
    if as_they_come:
        as_they_come.check(tower.side, tower.cfg, contract(definition, tokenizer))
    if as_they_come or tower.folder is None:
        params = place(flatten(definition.stored_params(tower.seed)), shardings)
    else:
        wanted = contract(definition, tokenizer)
        params = _restore(tower, tower.folder, flatten(shapes), shardings, wanted)
    tree = nest(params)
    if tower.role == "student_int8":
        definition, tree = definition.quantised(tree, "int8")
    return Encoder(definition, tree, tokenizer, mesh, cfg.batch_size, cfg.dim)


class Encoders:
    """The towers of a finished run, each loaded when it is first asked for and kept as long as this
    object is; but for the untrained ones, which nobody asks for twice.
    """

    def __init__(self, towers: RunTowers, cfg: EncodeConfig, mesh: Mesh):
        self.towers, self.cfg, self.mesh = towers, cfg, mesh
        self._kept: dict[tuple[str, str], Encoder] = {}

    def get(self, role: str, side: str) -> Encoder:
        """As `load_encoder`, of a tower as in `RunTowers.get`."""
        encoder = self._kept.get((role, side))
        if encoder is None:
            encoder = load_encoder(self.towers.get(role, side), self.cfg, self.mesh)
            if role != "untrained":
                self._kept[role, side] = encoder
        return encoder


def _restore(
    tower: TrainedTower, folder: Path, shapes: Flat, shardings: Flat, wanted: dict[str, Any]
) -> Flat:
    output_of(folder, tower.verb)  # an unfinished run has checkpoints too, but not the tower
    if wrong := damage(folder):
        fix = f"run `scalingnote {tower.verb}` again, or copy the folder anew"
        raise bad_input(str(folder), wrong, "what the step has made", fix)
    from scalingnote_jax.models.weights.restore import Checkpoints  # Orbax is heavy

    checkpoints, prefix = Checkpoints(folder / "checkpoints"), tower.prefix
    try:
        step = checkpoints.latest_step()
        assert step is not None, "a finished run has a checkpoint"
        saved = checkpoints.meta(step)["contracts"][tower.side]
        for key, value in wanted.items():
            trained_with = saved.get(key, False)  # what an older checkpoint does not name was off
            if trained_with != value:
                raise bad_input(
                    str(folder),
                    f"its {tower.side} tower was trained with {key} = {trained_with!r}",
                    f"{value!r} as the config says",
                    "use the config of this checkpoint",
                )
        like = {f"{prefix}/{path}": x for path, x in shapes.items()}
        spread = {f"{prefix}/{path}": x for path, x in shardings.items()}
        restored = checkpoints.restore_params(step, like, spread)
        return {path.removeprefix(f"{prefix}/"): x for path, x in restored.items()}
    finally:
        checkpoints.close()


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """[n, D] → unit vectors, on the host; a zero vector stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
