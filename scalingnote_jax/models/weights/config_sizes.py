"""How large the numbers in a model's config.json may be: lists are made as long as they say.
Not for what the config means: `families.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalingnote_jax.errors import bad_input

_LARGE = 2**24
_COUNTED = {  # a field of a config → the most that it may say
    "num_hidden_layers": 4096,
    "num_attention_heads": 2**16,
    "num_key_value_heads": 2**16,
    "head_dim": 2**16,
    "hidden_size": _LARGE,
    "intermediate_size": _LARGE,
    "vocab_size": _LARGE,
    "max_position_embeddings": 2**40,
    "sliding_window": 2**40,
    "sliding_window_pattern": 4096,
    "global_attn_every_n_layers": 4096,
    "type_vocab_size": _LARGE,
}


def check_sizes(path: Path, config: dict[str, Any]) -> None:
    """Refuses numbers that no model has, wherever in the config they stand.

    Raises:
        UserError: names the field.
    """
    waiting: list[Any] = [config]
    while waiting:
        values = waiting.pop()
        for name, value in values.items():
            if isinstance(value, dict):
                waiting.append(value)
            elif name in _COUNTED:
                whole = isinstance(value, int) and not isinstance(value, bool)
                if not (value is None or (whole and 0 <= value <= _COUNTED[name])):
                    given = f"{name} {value!r:.40}"
                    expected = f"a number of at most {_COUNTED[name]}"
                    raise bad_input(str(path), given, expected, "fetch it again")
