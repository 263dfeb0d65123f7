"""What a field may hold beyond its type, written into the type itself: `batch_size: Count = 64`.

`validate.py` reads these types, `describe.py` prints them. Not for rules over several fields: see
the files of `rules/`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from scalingnote_jax.config.forms import duration as durations
from scalingnote_jax.config.forms import metric_names


class Limit(Protocol):
    """One rule for one value.

    Attributes:
        expected: what the value should be, for the error and for `scalingnote config`.
    """

    @property
    def expected(self) -> str: ...

    def holds(self, value: Any) -> bool:
        """Whether a value of the right type is allowed."""
        ...


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `above` and `below` leave the ends themselves out."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    also: float | None = None  # one number outside of the range that is allowed too

    @property
    def expected(self) -> str:
        if self.high == math.inf:
            text = f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        else:
            first = f"above {self.low:g}" if self.above else f"from {self.low:g}"
            last = f"below {self.high:.12g}" if self.below else f"{self.high:.12g}"
            text = f"{first} to {last}"
        return text if self.also is None else f"{text}, or {self.also:g}"

    def holds(self, value: Any) -> bool:
        if self.also is not None and value == self.also:
            return True
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)


@dataclass(frozen=True)
class Duration:
    """A duration. `units`: those that make sense here; `empty`: "" is allowed; `zero`: 0 is."""

    units: tuple[str, ...]
    empty: bool = False
    zero: bool = False

    @property
    def expected(self) -> str:
        examples = {"step": "200 steps", "epoch": "3 epochs", "example": "10000 examples"}
        forms = [repr(examples.get(unit, "10%")) for unit in self.units]
        text = f"{', '.join(forms[:-1])} or {forms[-1]}" + ("" if self.zero else ", above 0")
        return f"{text}; '' for none" if self.empty else text

    def holds(self, value: Any) -> bool:
        if not value.strip():
            return self.empty and value == ""
        number, unit = durations.parse(value) or (-1.0, "")
        if unit not in self.units or (unit == "%" and number > 100):
            return False
        return number > 0 or (self.zero and number == 0)


@dataclass(frozen=True)
class Form:
    """Texts of which a regular expression matches the whole; `expected` says it in words."""

    pattern: str
    expected: str

    def holds(self, value: Any) -> bool:
        return re.fullmatch(self.pattern, value, re.DOTALL) is not None


@dataclass(frozen=True)
class _RegularExpression:
    expected: str = "a regular expression"

    def holds(self, value: Any) -> bool:
        try:
            re.compile(value)
        except re.error:
            return False
        return bool(value)


@dataclass(frozen=True)
class _MetricName:
    expected: str = metric_names.FORMS

    def holds(self, value: Any) -> bool:
        return metric_names.parse(value) is not None


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Percent = Annotated[int, Range(0, 100)]
Weight = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]
Cosine = Annotated[float, Range(-1, 1)]
CosineDifference = Annotated[float, Range(-2, 2)]
CosineMargin = Annotated[float, Range(0, 2)]
AxisSize = Annotated[int, Range(1, also=-1)]

# A stage's own length cannot be a share of itself; "" leaves the stage out
OptionalDuration = Annotated[str, Duration(("step", "epoch", "example"), empty=True)]
Interval = Annotated[str, Duration(durations.UNITS)]
# The optimizer knows neither the batch size nor the epoch
WarmUp = Annotated[str, Duration(("step", "%"), zero=True)]

Regex = Annotated[str, _RegularExpression()]
Metric = Annotated[str, _MetricName()]
Filled = Annotated[str, Form(r".*\S.*", "a text that is not empty")]
Prompt = Annotated[str, Form(r".*\{text\}.*", "a prompt with {text} in it")]
# Of a folder, and of the rows of a TREC run
Name = Annotated[
    str, Form(r"(?!\.+$)[A-Za-z0-9._-]+", "a name of letters, digits, '.', '_' and '-'")
]
