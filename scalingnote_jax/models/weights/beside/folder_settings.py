"""What a folder of weights has beyond its body: pooling, linear layers, prompts, lengths.

Other libraries keep them beside the weights, and without them a model computes other vectors. Who
reads them from which folder: `sentence_folder.py`, `own_export.py`; what a tower makes of them:
`completion.py`. Lower-casing belongs to the tokenizer (`text/tokenizer.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import numpy as np

from scalingnote_jax.config.stages import Side
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.weights.hf_folder import open_tensor

BODY_ALONE = "set body_only=True in the tower to take the body alone"


@dataclass(frozen=True)
class Linear:
    """A linear layer without bias in a file of its own.

    Attributes:
        path, name: of its tensor.
        transposed: stored as [out, in].
        size: in, out.
    """

    path: Path
    name: str
    transposed: bool
    size: tuple[int, int]

    def read(self) -> np.ndarray:
        """[in, out] float32."""
        with open_tensor(self.name, self.path) as tensor:
            weight = np.asarray(tensor[:], np.float32)
        return weight.T if self.transposed else weight


@dataclass(frozen=True)
class FolderSettings:
    """What stands beside a body. What the folder does not say is empty.

    Attributes:
        said: all of it in words, with the names of files.
        pooling: as in `TowerConfig`.
        linear: the layers behind the pooling, in order.
        prompts: of texts on each side, as in `TextConfig`.
        max_tokens: of a text on each side.
        title_tokens: as in `TextConfig`.
    """

    said: str
    pooling: str = ""
    linear: tuple[Linear, ...] = ()
    prompts: Mapping[Side, str] = field(default_factory=dict)
    max_tokens: Mapping[Side, int] = field(default_factory=dict)
    title_tokens: int = 0

    @property
    def dim(self) -> int:
        """D behind the linear layers; 0: there are none."""
        return self.linear[-1].size[1] if self.linear else 0

    def projection(self) -> np.ndarray:
        """The linear layers as one, [E, D] float32."""
        return np.ascontiguousarray(reduce(np.matmul, (layer.read() for layer in self.linear)))


def linear(path: Path, name: str, transposed: bool) -> Linear:
    """The layer in a safetensors file, of which the header is read.

    Raises:
        UserError: the file has no such matrix.
    """
    if not path.is_file():
        given, fix = "missing (pickled weights are not opened)", "save the model as safetensors"
        raise bad_input(str(path), given, f"a file with the tensor {name}", fix)
    with open_tensor(name, path) as tensor:
        shape = tuple(tensor.get_shape())
    if len(shape) != 2:
        raise bad_input(str(path), f"{name} of shape {shape}", "a matrix", "fetch it again")
    return Linear(path, name, transposed, shape[::-1] if transposed else shape)
