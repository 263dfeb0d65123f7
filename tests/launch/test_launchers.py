"""`tpu_vm.sh` and `slurm.sh`, with programs of clouds and clusters played by scripts: what they are
asked, and whether what they would run on the hosts really runs.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / "launch"
sys.path.insert(0, str(LAUNCH))
from local_processes import free_port  # noqa: E402

# Notes its arguments; on `ssh --command` it plays the host, if the test gives it a home there.
GCLOUD = f"""#!{sys.executable}
import json, os, subprocess, sys
words = sys.argv[1:]
with open(os.environ["CALLS"], "a") as f:
    f.write(json.dumps(words) + "\\n")
for word in words:
    if word.startswith("--command=") and "HOST_HOME" in os.environ:
        env = os.environ | {{"HOME": os.environ["HOST_HOME"]}}
        command = ["bash", "-c", word.removeprefix("--command=")]
        sys.exit(subprocess.run(command, env=env, cwd=env["HOME"]).returncode)
"""
# Starts two tasks, as Slurm would on two nodes.
SRUN = f"""#!{sys.executable}
import json, os, subprocess, sys
words = sys.argv[1:]
with open(os.environ["CALLS"], "a") as f:
    f.write(json.dumps(words) + "\\n")
while words[0].startswith("--"):
    words.pop(0)
step = {{"SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "127.0.0.[1-2]"}}
tasks = [
    subprocess.Popen(words, env=os.environ | step | {{"SLURM_PROCID": str(i)}}) for i in (0, 1)
]
sys.exit(max(task.wait() for task in tasks))
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def environment(folder: Path) -> None:
    """A `.venv/bin` with this interpreter, and a `scalingnote` that says what it was told."""
    program(folder / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program(folder / "scalingnote", '#!/bin/sh\nfor word; do echo "told: $word"; done\n')


class Caller:
    """Runs a launcher with the played programs first on PATH."""

    def __init__(self, folder: Path):
        self.calls_file = folder / "calls"
        self.bin = folder / "bin"
        program(self.bin / "gcloud", GCLOUD)
        program(self.bin / "srun", SRUN)
        program(self.bin / "scontrol", '#!/bin/sh\necho "scontrol $*"\n')
        self.env = os.environ | {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "CALLS": str(self.calls_file),
            "PYTHONPATH": str(REPOSITORY),
            "XLA_FLAGS": "",
            "TMPDIR": str(folder),
        }

    def __call__(self, script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(LAUNCH / script), *words],
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]


@pytest.fixture
def call(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


TPU = ("--name", "mine", "--zone", "us-west4-a")


def test_create_asks_for_a_queued_resource(call: Caller):
    kind = ("--type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite")
    assert call("tpu_vm.sh", "create", *TPU, *kind, "--spot", "--project", "p").returncode == 0
    (words,) = call.calls()
    assert words[:5] == ["compute", "tpus", "queued-resources", "create", "mine"]
    assert {
        "--zone=us-west4-a",
        "--project=p",
        "--node-id=mine",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--spot",
    } <= set(words)


def test_words_behind_the_dashes_go_to_gcloud(call: Caller):
    kind = ("--type", "v6e-16", "--version", "v2-alpha-tpuv6e")
    more = ("--reserved", "--network=my-net", "--labels=a=b c")
    assert call("tpu_vm.sh", "create", *TPU, *kind, "--", *more).returncode == 0
    (words,) = call.calls()
    assert words[-3:] == list(more)


def test_several_slices_are_several_nodes(call: Caller):
    kind = ("--type", "v5p-32", "--version", "v2-alpha-tpuv5")
    call("tpu_vm.sh", "create", *TPU, *kind, "--slices", "3")
    call("tpu_vm.sh", "stop", *TPU, "--slices", "3")
    create, *stops = call.calls()
    assert {"--node-count=3", "--node-prefix=mine"} <= set(create)
    assert [words[:5] for words in stops] == [
        ["compute", "tpus", "tpu-vm", "ssh", f"mine-{i}"] for i in range(3)
    ]
    assert all("--worker=all" in words for words in stops)


def test_a_dry_run_prints_what_it_would_call_and_calls_nothing(call: Caller):
    words = ("--", "train", "configs/beir.py", "--workdir=/mnt/a b", "--data.path=it's")
    printed = call("tpu_vm.sh", "run", *TPU, "--dry-run", *words)
    assert printed.returncode == 0
    assert not call.calls_file.exists()
    # Pasted into a shell it is just what the run itself would call.
    subprocess.run(["bash", "-c", printed.stdout], env=call.env, check=True)
    call("tpu_vm.sh", "run", *TPU, *words)
    pasted, called = call.calls()
    assert pasted == called
    assert pasted[:5] == ["compute", "tpus", "tpu-vm", "ssh", "mine"]


def test_setup_takes_the_working_tree_without_what_git_ignores(call: Caller):
    assert call("tpu_vm.sh", "setup", *TPU).returncode == 0
    copy, install = call.calls()
    assert copy[:4] == ["compute", "tpus", "tpu-vm", "scp"]
    assert copy[5] == "mine:scalingnote_jax.tgz"
    with tarfile.open(copy[4]) as archive:
        names = set(archive.getnames())
    assert {"setup.py", "launch/preflight.py", "scalingnote_jax/devices/mesh.py"} <= names
    assert not any(name.startswith((".venv", ".git/", "runs")) for name in names)
    assert "make_environment index,pretrained,tpu" in install[-1]


def host(call: Caller, tmp_path: Path) -> Path:
    """The home on the played TPU host, as `setup` leaves it."""
    home = tmp_path / "home"
    environment(home / "scalingnote_jax" / ".venv" / "bin")
    (home / "scalingnote_jax" / "launch").symlink_to(LAUNCH)
    call.env["HOST_HOME"] = str(home)
    return home


def wait_for(path: Path, text: str) -> str:
    for _ in range(600):
        if path.exists() and text in (found := path.read_text()):
            return found
        time.sleep(0.1)
    raise AssertionError(f"no {text!r} in {path}: {path.read_text() if path.exists() else ''}")


@pytest.mark.slow
def test_run_checks_then_works_detached_and_logs_its_exit_code(
    call: Caller, tmp_path: Path, tiny_config: Path
):
    home, workdir = host(call, tmp_path), tmp_path / "a workdir"
    option = f"--workdir={workdir}"
    assert call("tpu_vm.sh", "run", *TPU, "--", "data", str(tiny_config), option).returncode == 0
    said = wait_for(home / "scalingnote.log", "exit code").splitlines()
    assert said[0].startswith("preflight: ok: 1 hosts")
    assert said[1:] == ["told: data", f"told: {tiny_config}", f"told: {option}", "exit code 0"]


@pytest.mark.slow
def test_a_failed_preflight_is_the_end(call: Caller, tmp_path: Path, tiny_config: Path):
    home, workdir = host(call, tmp_path), tmp_path / "w"
    words = ("--", "data", str(tiny_config), f"--workdir={workdir}", "--mesh.fsdp=7")
    assert call("tpu_vm.sh", "run", *TPU, *words).returncode == 0
    log = wait_for(home / "scalingnote.log", "exit code")
    assert log.splitlines()[-1] == "exit code 2"
    assert "told:" not in log


def test_stop_ends_all_that_run_started(call: Caller, tmp_path: Path):
    home = host(call, tmp_path)
    sleeper = "#!/bin/sh\nsleep 60 &\necho child $!\nwait\n"
    program(home / "scalingnote_jax" / ".venv" / "bin" / "python", sleeper)
    assert call("tpu_vm.sh", "run", *TPU, "--", "data", "c.py").returncode == 0
    child = int(re.findall(r"child (\d+)", wait_for(home / "scalingnote.log", "child"))[0])
    again = call("tpu_vm.sh", "run", *TPU, "--", "data", "c.py")
    assert (again.returncode, again.stdout) == (1, "a run is alive here: stop it first\n")
    assert call("tpu_vm.sh", "stop", *TPU).returncode == 0
    for _ in range(100):
        if not alive(child):
            return
        time.sleep(0.1)
    raise AssertionError("the child lives")


def alive(pid: int) -> bool:
    """Whether the process is there and not merely waited for by nobody."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fly", *TPU], "no verb fly"),
        (["run", "--name", "x"], "--name and --zone are needed"),
        (["create", *TPU], "create needs --type and --version"),
        (["create", *TPU, "--type=tpu7x-8"], "unknown option --type=tpu7x-8"),
        (["create", *TPU, "--type", "tpu7x-8", "--version", "v"], "launch/gke_jobset.yaml"),
        (["mount", *TPU], "mount needs --bucket"),
        (["run", *TPU], "run needs -- VERB CONFIG"),
        (["stop", *TPU, "--slices", "two"], "--slices two is not a number"),
        (["stop", *TPU, "--workers", "2"], "unknown option --workers"),
        (["stop", "--name", "*", "--zone", "z"], "--name '*' is not small letters"),
        (["stop", "--name", "a b", "--zone", "z"], "--name 'a b' is not small letters"),
        (["stop", "--name", "--all", "--zone", "z"], "--name '--all' is not small letters"),
        (["stop", "--name", "x", "--zone", "z;id"], "--zone 'z;id' is no zone"),
        (["logs", *TPU, "--worker", "$(id)"], "--worker '$(id)' is no number"),
        (["mount", *TPU, "--bucket", "-o x"], "--bucket '-o x' is no name of a bucket"),
    ],
)
def test_a_wrong_call_is_one_line(call: Caller, words: list[str], said: str):
    done = call("tpu_vm.sh", *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line
    assert not call.calls_file.exists()


@pytest.fixture
def slurm(call: Caller, tmp_path: Path) -> Caller:
    environment(tmp_path / "venv" / "bin")
    call.env |= {
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": os.path.relpath(REPOSITORY),
        "SLURM_CPUS_ON_NODE": "2",
        "VENV": os.path.relpath(tmp_path / "venv", REPOSITORY),
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    return call


@pytest.mark.slow
def test_a_slurm_job_of_two_nodes_runs(slurm: Caller, tmp_path: Path, tiny_config: Path):
    workdir = tmp_path / "w"
    done = slurm("slurm.sh", "data", str(tiny_config), f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "preflight: ok: 2 hosts, 2 × cpu" in done.stdout
    assert done.stdout.count(f"told: --workdir={workdir}") == 2
    check, work = slurm.calls()
    shared = ["--kill-on-bad-exit=1", "--cpus-per-task=2"]
    assert check[:4] == [*shared, "python", "launch/preflight.py"]
    assert work[:4] == [*shared, "scalingnote", "data"]


def test_a_slurm_job_goes_back_into_the_queue_when_its_time_is_up(slurm: Caller, tmp_path: Path):
    work = '[ "$3" = python ] || { echo works > "$CALLS"; exec sleep 60; }'
    program(slurm.bin / "srun", f"#!/bin/sh\n{work}\n")
    script = subprocess.Popen(
        ["bash", str(LAUNCH / "slurm.sh"), "train", "c.py"],
        env=slurm.env,
        stdout=(tmp_path / "log").open("w"),
        start_new_session=True,
    )
    try:
        wait_for(slurm.calls_file, "works")
        time.sleep(0.5)  # until the shell waits: a trap that runs before does not end the wait
        script.send_signal(signal.SIGUSR1)
        assert script.wait(timeout=10) == 128 + signal.SIGUSR1
    finally:
        os.killpg(script.pid, signal.SIGKILL)  # as Slurm does with what is left
    assert "scontrol requeue 7" in (tmp_path / "log").read_text()


def test_slurm_options_are_comments_before_the_first_command():
    head = (LAUNCH / "slurm.sh").read_text().split("\nset -euo")[0].splitlines()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", "\n".join(head), re.MULTILINE))
    assert options["ntasks-per-node"] == "1"
    assert options["signal"] == "B:USR1@120"
    assert "requeue" in options
