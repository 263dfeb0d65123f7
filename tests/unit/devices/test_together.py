"""What becomes of a job in which something goes wrong, on real processes (`forked_jobs.py`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
HELPER = REPOSITORY / "tests" / "helpers" / "forked_jobs.py"

# One of a case's processes: exit code, the lines that it printed
Ended = tuple[int, list[str]]


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Ended]]:
    """All cases, run at the same time."""
    done = subprocess.run(
        [sys.executable, str(HELPER)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    ended = json.loads(done.stdout)
    return {
        case: [(code, said.splitlines()) for _, (code, _, said) in sorted(of_case.items())]
        for case, of_case in ended.items()
    }


def test_a_mistake_of_one_ends_all_with_its_line_and_code(cases: dict[str, list[Ended]]):
    line = "corpus.jsonl:7: no text; expected a text; add one"
    heard = (2, [f"scalingnote: host 1: {line}"])
    assert cases["error"] == [heard, (2, [f"scalingnote: {line}"]), heard]


def test_a_mistake_before_the_start_reaches_those_that_wait(cases: dict[str, list[Ended]]):
    (waiting, (said,)), failing = cases["typo"]
    assert failing == (2, ["scalingnote: --seed: x; expected a number; give one"])
    assert waiting == 2
    assert said.startswith("scalingnote: host 1 (")
    assert said.endswith("): --seed: x; expected a number; give one")


def test_a_fault_of_ours_is_a_traceback_in_one_and_a_line_in_all(cases: dict[str, list[Ended]]):
    other, (code, said) = cases["fault"]
    line = "ZeroDivisionError: integer division or modulo by zero"
    assert other == (1, ["1", f"scalingnote: host 1: {line}"])
    assert (code, said[0]) == (1, "Traceback (most recent call last):")


@pytest.mark.parametrize(("case", "gone"), [("killed", 1), ("first_killed", 0)])
def test_a_lost_process_is_named_and_ends_all(cases: dict[str, list[Ended]], case: str, gone: int):
    line = f"scalingnote: host {gone} is lost: its process or its machine ended"
    for index, ended in enumerate(cases[case]):
        assert ended == ((-signal.SIGKILL, []) if index == gone else (1, [line]))


def test_who_is_late_is_named_and_then_it_goes_on(cases: dict[str, list[Ended]]):
    for code, said in cases["late"]:
        assert code == 0
        assert said[0] == ("scalingnote: waiting for host 1 for 1 s, last heard of after: loading")


def test_who_is_there_but_says_nothing_ends_the_job(cases: dict[str, list[Ended]]):
    ((code, said),) = cases["frozen"]  # the frozen one itself cannot end
    assert code == 1
    assert said[0] == "scalingnote: waiting for host 1 for 2 s, last heard of after: loading"
    assert said[-1] == "scalingnote: host 1 said nothing for 5 s"


def test_processes_that_do_not_do_the_same_are_no_wait_for_ever(cases: dict[str, list[Ended]]):
    for code, (said,) in cases["apart"]:
        assert code == 1
        assert said.startswith("scalingnote: host 0 is at 'training', host 1 at 'encoding'")


def test_the_first_decides_and_what_any_finds_all_know(cases: dict[str, list[Ended]]):
    assert cases["agreed"] == [(0, ['["said by 0", true, false]'])] * 2


def test_all_stop_after_the_same_step_when_one_is_told_to(cases: dict[str, list[Ended]]):
    first, *others = cases["told_in_training"]
    code, (step, line) = first
    assert (code, int(step) >= 5) == (143, True)
    assert line == "scalingnote: stopped by SIGTERM; resume with: scalingnote run x.py"
    assert others == [first] * 2


def test_outside_of_training_all_end_at_once(cases: dict[str, list[Ended]]):
    line = "scalingnote: stopped by SIGINT, nothing had to be saved"
    assert cases["told_outside"] == [(130, [f"{line}; resume with: scalingnote run x.py"])] * 2
    alone = "scalingnote: stopped by SIGTERM; resume with: scalingnote run x.py"
    assert cases["alone_outside"] == [(143, [alone])]


def test_the_second_signal_ends_at_once(cases: dict[str, list[Ended]]):
    assert cases["alone_twice"] == [(130, ["scalingnote: SIGINT: told twice, ended at once"])]


def test_a_full_disk_is_one_line(cases: dict[str, list[Ended]]):
    ((code, (line,)),) = cases["alone_full_disk"]
    assert code == 2
    assert "No space left on device" in line
    assert line.endswith("make room on that disk, and start the same again")
