"""A tower as one ONNX graph: token ids and attention mask to unit vectors.

Made by PyTorch's own exporter from the body as `transformers` loads it, because nothing that is
kept up goes from JAX to ONNX beside the versions that this package needs (docs/export.md). So this
module needs torch and onnxscript, and is imported only when it is asked for.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnxscript  # noqa: F401  (the exporter asks for it when all else is done)
import torch
from transformers import AutoModel

from scalingnote_jax.export.exported_tower import ExportedTower
from scalingnote_jax.export.write_hf import write_body

MODEL = "model.onnx"  # its weights lie beside it: a graph with them inside ends at 2 GiB


class TorchTower(torch.nn.Module):
    """Body, pooling, projection and L2 norm in PyTorch."""

    def __init__(self, body: Any, pooling: str, projection: torch.Tensor | None):
        super().__init__()
        self.body, self.pooling, self.projection = body, pooling, projection

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[B, L] int64 each, padded on the right → [B, D]."""
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        if self.pooling == "mean":
            pooled = (hidden * mask).sum(1) / mask.sum(1)
        elif self.pooling == "cls":
            pooled = hidden[:, 0]
        else:  # the last token
            places = attention_mask.sum(1) - 1
            pooled = hidden.gather(1, places[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]
        if self.projection is not None:
            pooled = pooled @ self.projection
        return torch.nn.functional.normalize(pooled, dim=-1)


def write_onnx(tower: ExportedTower, folder: Path) -> None:
    """model.onnx, its weights and the tokenizer.

    Raises:
        UserError: `transformers` has no model that computes this body.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        write_body(tower, Path(scratch), "float32")
        body = AutoModel.from_pretrained(
            scratch, dtype=torch.float32, attn_implementation="eager"
        ).eval()
    projection = tower.projection
    model = TorchTower(
        body,
        tower.cfg.pooling,
        None if projection is None else torch.tensor(projection),
    )
    # Two rows of two tokens: a size of one would be taken for a constant.
    ids = torch.zeros((2, 2), dtype=torch.int64)
    sizes = {
        0: torch.export.Dim("batch"),
        1: torch.export.Dim("length", max=max(3, tower.text.max_tokens)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter to its own authors
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            model,
            (ids, torch.ones_like(ids)),
            folder / MODEL,
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
            dynamo=True,
            external_data=True,
            verbose=False,
        )
    tower.tokenizer.save(folder)
