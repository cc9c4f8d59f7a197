"""launch/pods: what the scripts print, start, and start again; and all shell scripts are clean."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PODS = ROOT / "launch" / "pods"
SCRIPTS = [ROOT / ".ci/run", *sorted(ROOT.glob("launch/**/*.sh"))]
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
WORKDIR = "/data/a b's"
ARGUMENTS = ["diffusion", "--workdir", WORKDIR, '--config.text.encoder="5" $HOME']
COMMANDS = [
    *(["tpu", "keep", *ARGUMENTS], ["tpu", "create"], ["tpu", "install"], ["tpu", "logs"]),
    *(["tpu", "train", *ARGUMENTS], ["tpu", "stop"], ["tpu", "delete"]),
    ["slurm", *ARGUMENTS],
    *(["jobset", "train", *ARGUMENTS], ["jobset", "logs"], ["jobset", "stop"]),
    *(["gpu", "build"], ["gpu", "train", *ARGUMENTS]),
]
WRONG = [
    *(["tpu"], ["tpu", "make"], ["tpu", "create", "a"], ["tpu", "train"], ["tpu", "keep"]),
    *(["slurm"], ["jobset"], ["jobset", "train"], ["gpu"], ["gpu", "train"]),
]


def shellcheck(*arguments, **options) -> subprocess.CompletedProcess:
    program = shutil.which("shellcheck", path=PATH)
    assert program, "the extra `dev` brings shellcheck"
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture
def pods(tmp_path):
    """A function that runs a script where cloud programs only record their calls in `calls`.

    `programs` are the bodies of some of them, in shell.
    """

    def call(script, *arguments, programs=None, run=subprocess.run, **variables):
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        for name in ("gcloud", "kubectl", "sbatch", "srun", "scontrol", "docker", "sleep"):
            body = (programs or {}).get(name, "exit 1")
            (folder / name).write_text(
                f'#!/bin/bash\necho "{name} $*" >>{tmp_path}/calls\n{body}\n'
            )
            (folder / name).chmod(0o755)
        environment = os.environ | {"PATH": f"{folder}:{PATH}"} | variables
        command, pipe = ["bash", PODS / f"{script}.sh", *arguments], subprocess.PIPE
        return run(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)

    return call


def calls(tmp_path) -> list[str]:
    file = tmp_path / "calls"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script):
    assert script.exists()
    assert shellcheck(script).stdout == ""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command[:2]))
def test_a_dry_run_prints_what_it_would_do_and_starts_nothing(command, pods, tmp_path):
    script, *arguments = command
    name = "train-7" if script != "gpu" else "images/train-7:2"
    result = pods(script, "--dry-run", *arguments, NAME="train-7", IMAGE=name, CLAIM="c")
    assert (result.returncode, result.stderr) == (0, "")
    assert "train-7" in result.stdout
    assert calls(tmp_path) == []


@pytest.mark.parametrize("command", WRONG, ids="-".join)
def test_wrong_arguments_are_refused_with_the_usage(command, pods, tmp_path):
    result = pods(*command)
    assert result.returncode == 1
    assert "usage: " in result.stderr
    assert calls(tmp_path) == []


@pytest.mark.parametrize("topology", ["v5e:4x4x4", "v5p:4x4", "v4:2x2x2", "v5e:0x4", "v6e:16"])
def test_a_shape_that_the_chips_do_not_come_in_is_refused(topology, pods):
    result = pods("tpu", "--dry-run", "create", TOPOLOGY=topology)
    assert result.returncode == 1 and topology in result.stderr


def test_the_dry_run_of_a_tpu_slice_has_all_steps_in_order_and_the_variables(pods):
    variables = dict(PROJECT="p", ZONE="z", NAME="n", TOPOLOGY="v5p:4x4x8", SPOT="yes", SLICES="2")
    printed = pods("tpu", "--dry-run", "keep", *ARGUMENTS, **variables).stdout
    known = ("create", "scp", "ssh")
    steps = [word for word in shlex.split(printed) if word in known]
    assert steps == ["create", "scp", "ssh", "ssh", "ssh"]  # the last two train, and ask
    create = printed.splitlines()[0]
    assert create == (
        "gcloud compute tpus queued-resources create n --zone z --project p --accelerator-type "
        "v5p-256 --runtime-version v2-alpha-tpuv5 --node-count 2 --node-prefix n --spot"
    )


def test_arguments_reach_the_program_as_they_were_given(pods):
    printed = pods("tpu", "--dry-run", "train", *ARGUMENTS).stdout
    remote = shlex.split(printed)[-1]
    assert shlex.split(remote)[-len(ARGUMENTS) :] == ARGUMENTS
    submit, _, start, *_ = pods("slurm", "--dry-run", *ARGUMENTS).stdout.splitlines()
    for line in (submit, start, pods("gpu", "--dry-run", "train", *ARGUMENTS).stdout):
        assert shlex.split(line)[-len(ARGUMENTS) :] == ARGUMENTS
    jobset = yaml.safe_load(
        pods("jobset", "--dry-run", "train", *ARGUMENTS, IMAGE="i", CLAIM="c").stdout
    )
    assert pod(jobset)["containers"][0]["args"] == ["train", *ARGUMENTS]


def pod(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_a_jobset_has_a_pod_for_every_host_and_restarts_what_was_stopped(pods):
    variables = dict(
        CLAIM="filestore", IMAGE="registry/jen1:3", TOPOLOGY="v6e:8x16", SLICES="3", RESTARTS="7"
    )
    printed = pods("jobset", "--dry-run", "train", *ARGUMENTS, SPOT="yes", **variables).stdout
    jobset = yaml.safe_load(printed)
    job = jobset["spec"]["replicatedJobs"][0]
    assert (job["replicas"], job["template"]["spec"]["parallelism"]) == (3, 32)
    assert job["template"]["spec"]["completions"] == 32
    assert pod(jobset)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "8x16",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod(jobset)["volumes"][0]["persistentVolumeClaim"] == {"claimName": "filestore"}
    assert pod(jobset)["restartPolicy"] == "Never"  # a podFailurePolicy asks for it
    stopped, preempted = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert stopped["onExitCodes"]["values"] == [os.EX_TEMPFAIL]
    assert preempted["onPodConditions"][0]["type"] == "DisruptionTarget"
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    assert policy["rules"][0]["action"] == "RestartJobSetAndIgnoreMaxRestarts"


def test_a_jobset_is_applied_as_it_is_printed(pods, tmp_path):
    printed = pods("jobset", "--dry-run", "train", *ARGUMENTS, IMAGE="i", CLAIM="c").stdout
    programs = {"kubectl": f"cat >{tmp_path}/applied"}
    assert (
        pods("jobset", "train", *ARGUMENTS, IMAGE="i", CLAIM="c", programs=programs).returncode == 0
    )
    assert (tmp_path / "applied").read_text() == printed
    assert calls(tmp_path) == ["kubectl --namespace default apply --filename -"]


@pytest.mark.parametrize(
    ("status", "restarts", "again"),
    [(0, 0, False), (2, 0, False), (3, 0, False), (75, 99, True), (137, 4, True), (137, 5, False)],
)
def test_a_slurm_job_enters_the_queue_again_after_a_stop_or_a_crash(
    status, restarts, again, pods, tmp_path
):
    result = pods(
        *("slurm", "--in-job", *ARGUMENTS),
        programs={"srun": f"exit {status}", "scontrol": "exit 0"},
        **dict(SLURM_JOB_ID="12", SLURM_RESTART_COUNT=str(restarts), RESTARTS="5"),
    )
    asked = [call for call in calls(tmp_path) if call.startswith("scontrol")]
    assert asked == (["scontrol requeue 12"] if again else [])
    assert result.returncode == (0 if again else status)


def test_a_cancelled_slurm_job_does_not_enter_the_queue_again(pods, tmp_path):
    programs = {"srun": "kill -TERM $PPID; exit 75", "scontrol": "exit 0"}
    result = pods("slurm", "--in-job", *ARGUMENTS, programs=programs, SLURM_JOB_ID="12")
    assert result.returncode == 75
    assert [call.split()[0] for call in calls(tmp_path)] == ["srun"]


def test_a_container_that_stopped_is_started_again_until_it_has_finished(pods, tmp_path):
    docker = f"case $(grep -c run {tmp_path}/calls) in 1) exit 75 ;; 2) exit 137 ;; esac"
    result = pods("gpu", "train", *ARGUMENTS, programs={"docker": docker, "sleep": ""})
    assert result.returncode == 0
    assert [call.split()[1] for call in calls(tmp_path) if "docker" in call] == ["run"] * 3
    (tmp_path / "calls").unlink()
    result = pods("gpu", "train", *ARGUMENTS, programs={"docker": "exit 3", "sleep": ""})
    assert result.returncode == 3
    assert len(calls(tmp_path)) == 1


def test_a_signal_stops_the_container_and_it_is_not_started_again(pods, tmp_path):
    docker = f"""case $1 in
      stop) touch {tmp_path}/stopped ;;
      run) touch {tmp_path}/started; while [ ! -e {tmp_path}/stopped ]; do :; done; exit 75 ;;
    esac"""
    running = pods("gpu", "train", *ARGUMENTS, programs={"docker": docker}, run=subprocess.Popen)
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 75
    assert [call.split()[1] for call in calls(tmp_path)] == ["run", "stop"]


def test_a_slice_that_is_taken_away_is_made_again_and_the_training_goes_on(pods, tmp_path):
    """The first training loses its slice, the second one the unit of a host that is rebooted."""
    gcloud = f"""cd {tmp_path}
    case "$*" in
      *" create "*) echo ACTIVE >slice ;;
      *" delete "*) rm slice ;;
      *" list "*) cat slice || true ;;
      *systemd-run*) echo >>trainings ;;
      *"show jen1"*)
        case "$(wc -l <trainings)-$([ -e lost ] && echo lost)" in
          0-*) printf '%s\n' 'inactive a' 'inactive b' ;;
          1-) touch lost; echo SUSPENDED >slice; printf '%s\n' 'active a' 'active b' ;;
          1-lost) printf '%s\n' 'inactive c' 'inactive d' ;;
          2-*) printf '%s\n' 'inactive e' 'active c' ;;
          3-*) printf '%s\n' 'inactive c' 'inactive e' ;;
        esac ;;
    esac"""
    (tmp_path / "trainings").touch()
    result = pods("tpu", "keep", *ARGUMENTS, programs={"gcloud": gcloud, "sleep": ""}, NAME="n")
    assert result.returncode == 0, result.stderr
    known = ("create", "scp", "uv python install", "systemd-run", "delete")
    steps = [step for call in calls(tmp_path) for step in known if step in call]
    begin = list(known[:4])
    assert steps == [*begin, "delete", *begin, *begin[1:]]


def test_the_image_copies_what_exists_and_installs_an_extra_that_exists():
    text = (PODS / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line and line[0] != "#"]
    assert lines[0][0] == "FROM"
    assert {word for word, _ in lines} <= {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENTRYPOINT"}
    copied = [name for word, rest in lines if word == "COPY" for name in rest.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= set(copied)
    assert {"train", "cuda", "tpu"} <= project["project"]["optional-dependencies"].keys()
    commands = "\n".join(rest for word, rest in lines if word == "RUN")
    found = shellcheck("--shell=sh", "--exclude=SC2154", "-", input=commands)  # EXTRA: an ARG
    assert found.stdout == ""


def test_the_flags_of_the_tpu_compiler_exist():
    pytest.importorskip("libtpu")
    program = (
        "from jax.experimental.topologies import get_topology_desc as topology\n"
        "print(len(topology(platform='tpu', topology_name='v5e:2x2').devices))"
    )
    command = f"source {PODS}/xla_flags.sh && {sys.executable} -c {shlex.quote(program)}"
    variables = dict(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", JAX_PLATFORMS="cpu")
    result = subprocess.run(
        ["bash", "-c", command], env=os.environ | variables, capture_output=True, text=True
    )
    assert result.returncode == 0, re.findall("ERROR.*", result.stderr)
    assert result.stdout.strip() == "4"
