"""Whether a tower still tells texts apart. A tower has collapsed when it gives all texts nearly the
same vector, or uses few of its dimensions: the loss may look well for a long time.

The figures are part of every step, and the alarm is looked at where they are recorded. Nothing of
it changes what is learned. How near a student is to its teacher: `train/probe.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from scalingnote_jax.models.tower import normalise
from scalingnote_jax.train.probe import pair_cosine

# Limits are our choice. Vectors of different texts, spread evenly, have a mean cosine of 0 and a
# deviation of 1; those of LLM towers before training may have a cosine of .9 and a deviation of .3.
MOST_ALIKE = 0.99
LEAST_DEVIATION = 0.05
# Of the student, as parts of the teacher's
LEAST_RANK = 0.25
LEAST_SPREAD = 0.1  # of 1 - pair cosine
FROM = 0.1  # of the steps: before that, towers are as they came


def deviation(emb: jax.Array) -> jax.Array:
    """The standard deviation of a dimension of [B, D] unit vectors, mean over dimensions, times √D:
    1 if they are spread evenly over the sphere, 0 if all are the same.
    """
    return emb.std(0).mean() * jnp.sqrt(jnp.float32(emb.shape[-1]))


def spread_figures(side: str, raw: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Figures of a step, as (sum, count): "SIDE_pair_cosine" and "SIDE_deviation" of [B, D] vectors
    before the L2 norm. None of them for a single vector.
    """
    if len(raw) < 2:
        return {}
    emb = normalise(jax.lax.stop_gradient(raw))
    found = {f"{side}_pair_cosine": pair_cosine(emb), f"{side}_deviation": deviation(emb)}
    return {name: (x, jnp.float32(1)) for name, x in found.items()}


def collapsed(record: dict[str, Any]) -> dict[str, str]:
    """Alarms of a record of `metrics.jsonl`: the tower → what is wrong with it."""
    found = {}
    for side in ("query", "doc", "student"):
        cosine, spread = record.get(f"{side}_pair_cosine"), record.get(f"{side}_deviation")
        if cosine is not None and cosine > MOST_ALIKE:
            found[side] = f"the mean cosine of two different texts is {cosine:.4f}"
        elif spread is not None and spread < LEAST_DEVIATION:
            found[side] = f"its dimensions deviate by {spread:.4f}, where 1 is evenly spread"
    teacher, student = record.get("teacher_rank"), record.get("student_rank")
    if teacher is not None and student is not None and student < LEAST_RANK * teacher:
        found["student"] = (
            f"its vectors lie in {student:.1f} directions, its teacher's in {teacher:.1f}"
        )
    teacher, student = record.get("teacher_pair_cosine"), record.get("student_pair_cosine")
    if teacher is not None and student is not None and 1 - student < LEAST_SPREAD * (1 - teacher):
        found["student"] = (
            f"the mean cosine of two different texts is {student:.4f}, its teacher's {teacher:.4f}"
        )
    return found


class CollapseAlarm:
    """Says once for each tower of a run that it has collapsed."""

    def __init__(self, name: str, total_steps: int):
        self._name, self._from = name, FROM * total_steps
        self._said: set[str] = set()

    def look(self, record: dict[str, Any]) -> Iterable[str]:
        """The lines to say about a record; notes the towers that have, in it, as "collapsed"."""
        found = collapsed(record) if record["step"] >= self._from else {}
        if found:
            record["collapsed"] = sorted(found)
        for side in sorted(found.keys() - self._said):
            self._said.add(side)
            yield (
                f"{self._name}, step {record['step']}: the {side} tower has collapsed: "
                f"{found[side]}; lower --{self._name}.optim.learning_rate, or see whether the data "
                "says what belongs together"
            )
