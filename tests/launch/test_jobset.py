"""`gke_jobset.yaml`: the form of its fields, and whether its own example adds up. The schema is
ours, of the fields that are used.
"""

from __future__ import annotations

import json
import math
import shlex
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from scalingnote_jax.config.load import load_config

REPOSITORY = Path(__file__).resolve().parents[2]
JOBSET = (REPOSITORY / "launch" / "gke_jobset.yaml").read_text()
SCHEMA = json.loads(Path(__file__).with_name("jobset_schema.json").read_text())


def example() -> dict[str, str]:
    """The values that the file's own header exports."""
    lines = [line for line in JOBSET.splitlines() if line.startswith("#   export ")]
    return dict(word.split("=", 1) for line in lines for word in shlex.split(line)[2:])


def jobset(**changes: str) -> Any:
    """The manifest as envsubst would make it."""
    return yaml.safe_load(string.Template(JOBSET).substitute(example() | changes))


def test_the_jobset_has_the_form_that_the_cluster_expects():
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(jobset())


@pytest.mark.parametrize(
    "changes",
    [{"SLICES": "0"}, {"SLICES": ""}, {"TOPOLOGY": "256"}, {"ACCELERATOR": "v5e"}, {"NAME": "A"}],
)
def test_a_wrong_value_breaks_the_form(changes: dict[str, str]):
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMA).validate(jobset(**changes))


def test_the_jobset_example_adds_up():
    values = example()
    chips = math.prod(map(int, values["TOPOLOGY"].split("x")))
    assert int(values["HOSTS"]) * int(values["CHIPS"]) == chips
    (job,) = jobset()["spec"]["replicatedJobs"]
    assert job["replicas"] == int(values["SLICES"])
    assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_jobset_command_is_a_shell_command_with_a_config_that_loads():
    (job,) = jobset()["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    (command,) = container["args"]
    subprocess.run(["bash", "-n", "-c", command], check=True)
    check, run = (shlex.split(part) for part in command.split("&&"))
    assert check[:2] == ["python", "launch/preflight.py"]
    assert run[:3] == ["exec", "scalingnote", "run"]
    config, *words = [word for word in run[3:] if not word.startswith("--workdir=")]
    loaded = load_config(REPOSITORY / config, words)
    assert loaded.mesh.slice == int(example()["SLICES"])
    assert set(run[3:]) < set(check)
