"""The tower that is exported: read from a finished workdir, adapters merged, in float32."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import EncodeConfig, MeshConfig, TextConfig, TowerConfig
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.tower import TowerDef
from scalingnote_jax.text.contract import to_marker
from scalingnote_jax.text.tokenizer import TextTokenizer
from scalingnote_jax.vectors.encoder import load_encoder
from scalingnote_jax.vectors.trained import TrainedTower


@dataclass(frozen=True)
class ExportedTower:
    """One tower without adapters, with what its texts go through.

    Attributes:
        role: "student" or "teacher".
        side: "query" or "doc".
        definition: what it computes.
        params: {"body/layers/q": …}, float32, in the host's memory.
        tokenizer: its tokenizer.
    """

    role: str
    side: str
    definition: TowerDef
    params: dict[str, Any]
    tokenizer: TextTokenizer

    @property
    def name(self) -> str:
        """What it is called to a person."""
        return f"{self.role} {self.side}"

    @property
    def cfg(self) -> TowerConfig:
        """Its config."""
        return self.definition.cfg

    @property
    def text(self) -> TextConfig:
        """Prompt and lengths."""
        return self.cfg.text

    @property
    def projection(self) -> np.ndarray | None:
        """[E, D], if the tower has one."""
        weight = self.params.get("projection")
        return None if weight is None else np.asarray(weight)

    @property
    def cut_at_end(self) -> bool:
        """Whether its tokens are those of a text with words put in front, cut at the end: what
        every other library can do.
        """
        plain = self.text.prompt.endswith("{text}") and not self.text.title_tokens
        return plain and not to_marker(self.cfg)


def open_tower(tower: TrainedTower, encode: EncodeConfig, prompt: str = "") -> ExportedTower:
    """A tower of a finished run, with the vectors that are searched with: with `encode.dim` a
    projection to the first components, which every format can hold.

    Args:
        prompt: that a collection of a mixture puts in front of each text.

    Raises:
        UserError: it was not trained yet, or what is there does not fit the config.
    """
    encoder = load_encoder(tower, encode, host_mesh())
    definition, tree = encoder.tower.merged(encoder.params)
    params, cfg = flatten(tree), definition.cfg
    if encoder.dim < definition.dim:
        first = params.get("projection", np.eye(definition.dim, dtype=np.float32))
        params["projection"] = np.asarray(first)[:, : encoder.dim]
        cfg = replace(cfg, projection=encoder.dim)
    if prompt:
        whole = cfg.text.prompt.replace("{text}", f"{prompt}{{text}}")
        cfg = replace(cfg, text=replace(cfg.text, prompt=whole))
    definition = replace(definition, cfg=cfg)
    return ExportedTower(tower.role, tower.side, definition, params, encoder.tokenizer)


def host_mesh() -> Mesh:
    """One device, the CPU: a whole tower may not fit into one of this machine's accelerators.

    Raises:
        UserError: the environment has switched the CPU off.
    """
    try:
        return make_mesh(MeshConfig(), jax.local_devices(backend="cpu")[:1])
    except RuntimeError as e:
        given = os.environ.get("JAX_PLATFORMS", "")
        raise bad_input("JAX_PLATFORMS", given, "cpu among them", "set it to cpu") from e
