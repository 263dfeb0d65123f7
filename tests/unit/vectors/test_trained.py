"""A tower is loaded only from a training whose files are as they were made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import scalingnote_jax
from scalingnote_jax.errors import UserError


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("half", [False, True])
def test_a_damaged_checkpoint_is_named_and_not_used(
    finished: Path, tmp_path: Path, half: bool
) -> None:
    work = Path(shutil.copytree(finished, tmp_path / "work"))
    path = largest(work / "student" / "checkpoints" / "20" / "params")
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        data[:middle] + (b"" if half else bytes([data[middle] ^ 64]) + data[middle + 1 :])
    )
    wrong = f"{middle} bytes where .* {len(data)}" if half else "is damaged"
    with pytest.raises(
        UserError, match=rf"student: checkpoints/20: params/.* {wrong}.*`scalingnote"
    ):
        scalingnote_jax.load(work).encode_queries(["topic3"])
    assert scalingnote_jax.load(work).encode_documents(["topic3"]).shape == (1, 16)
