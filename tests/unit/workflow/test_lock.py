"""One run at a time in a workdir; a lock whose holder is gone is named and taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scalingnote_jax.errors import UserError
from scalingnote_jax.workflow import lock
from scalingnote_jax.workflow.lock import LOCK, held

HOLD = """
import sys
from pathlib import Path
from scalingnote_jax.workflow.lock import held
with held(Path(sys.argv[1]), "train"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(workdir: Path) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", HOLD, workdir],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "held\n"
    return started


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    first = holder(tmp_path)
    said = rf"`scalingnote train` runs here already: process {first.pid} on .*one run at a time"
    with pytest.raises(UserError, match=said), held(tmp_path, "run"):
        pass
    first.communicate("")
    with held(tmp_path, "run"):
        assert json.loads((tmp_path / LOCK).read_text())["verb"] == "run"
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_run_is_named_and_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = holder(tmp_path)
    first.kill()
    first.wait()
    with held(tmp_path, "run"):
        assert f"takes over from process {first.pid} on" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", '{"host": 1}', "[]"])
def test_a_broken_lock_is_nobodys(content: str, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(content)
    with held(tmp_path, "run"):
        assert json.loads((tmp_path / LOCK).read_text())["verb"] == "run"


def test_a_holder_on_another_host_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SILENT_SECS", 0.5)
    monkeypatch.setattr(lock, "BEAT_SECS", 0.05)
    path = tmp_path / LOCK
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": "s", "verb": "run"}))
    touched = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(lock, "_touched", lambda _: next(touched))
        with pytest.raises(UserError, match="process 1 on elsewhere"), held(tmp_path, "run"):
            pass
    with held(tmp_path, "run"):  # it is silent
        assert json.loads(path.read_text())["host"] != "elsewhere"
