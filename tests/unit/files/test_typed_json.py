"""The one validator: what a form accepts, and what it says of what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scalingnote_jax.errors import UserError
from scalingnote_jax.files.typed_json import (
    COUNT,
    NAME,
    PATH,
    SHA256,
    Each,
    Maybe,
    Misfit,
    conform,
    parse,
    read_json,
)

FORM = {"n": int, "x?": float, "files": [{"file": NAME, "bytes": COUNT}], "of": Each(str, PATH)}
GOOD = {"n": 1, "files": [{"file": "a.npy", "bytes": 0}], "of": {"a/b": "c"}, "more": None}


def test_a_value_of_the_form_is_accepted() -> None:
    conform(GOOD, FORM)
    conform(GOOD | {"x": 2}, FORM)
    conform([None, 1], [Maybe(int)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": True}, "n is True, not an integer"),
        ({"n": 2**63}, "n is 9223372036854775808, not an integer"),
        ({"x": float("nan")}, "x is nan, not a finite number"),
        ({"files": {}}, "files is a dict, not a list"),
        ({"files": [{"file": "a"}]}, r"files\[0\] lacks 'bytes'"),
        ({"files": [{"file": "a", "bytes": -1}]}, r"files\[0\].bytes is -1, not a number of 0"),
        ({"files": [{"file": "../a", "bytes": 1}]}, r"files\[0\].file is '../a', not a file name"),
        ({"of": {"/etc": "x"}}, "a name in of is '/etc', not a path inside the folder"),
        ({"of": {"a": 1}}, "of.a is 1, not text"),
    ],
)
def test_another_form_is_said_with_its_place(change: dict[str, Any], said: str) -> None:
    with pytest.raises(Misfit, match=said):
        conform(GOOD | change, FORM)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/a", "a/../b", "a//b", "a/", "./a", "a\\b", "a\x00", "a\nb", "x" * 256, 1],
)
def test_paths_that_leave_the_folder_or_are_none(name: Any) -> None:
    assert not PATH.test(name)
    assert not NAME.test(name)


def test_names_paths_and_hashes() -> None:
    assert NAME.test("vectors-00000.npy")
    assert PATH.test("retrieval/corpus/1.0.0/features.json")
    assert not NAME.test("a/b")
    assert SHA256.test("0" * 64)
    assert not SHA256.test("0" * 63 + "G")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"{", "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"9" * 5000, "a number of 5000 digits"),
    ],
)
def test_what_is_no_json(text: bytes, said: str) -> None:
    with pytest.raises(Misfit, match=said):
        parse(text)


def test_a_file_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for make, said in [
        (lambda: None, "not there"),
        (path.mkdir, "cannot be read"),
    ]:
        make()
        with pytest.raises(UserError, match=f"a.json: {said}.*; expected a list; make it again"):
            read_json(path, [int], "a list", "make it again")
