"""What a launcher tells a process."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from nesht_jax.run.cli import main
from nesht_jax.run.launcher import Place, place_of

LAUNCH = Path(__file__).parents[2] / "docs" / "launch"
OWN = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
TORCH = {"MASTER_ADDR": "host0", "MASTER_PORT": "29500", "WORLD_SIZE": "2", "RANK": "0"}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, None),
        (OWN, Place("10.0.0.1:8476", 4, 3)),
        (OWN | {"JAX_LOCAL_DEVICE_IDS": "0,2"}, Place("10.0.0.1:8476", 4, 3, (0, 2))),
        (OWN | {"JAX_NUM_PROCESSES": "1"}, None),
        (TORCH, Place("host0:29501", 2, 0)),
        (TORCH | {"WORLD_SIZE": "1"}, None),
        (OWN | TORCH, Place("10.0.0.1:8476", 4, 3)),
        ({"SLURM_STEP_NUM_TASKS": "8"}, Place(None, 8, None)),
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        # a shell within an allocation, or its batch script
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, None),
    ],
)
def test_a_place_is_read(environ, place):
    assert place_of(environ) == place


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "here"}, "WORLD_SIZE is 2 without RANK and MASTER_P"),
        ({"JAX_NUM_PROCESSES": "2"}, "without JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID"),
        (OWN | {"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID must be below JAX_NUM_PROCESSES, 4, got 4"),
        (OWN | {"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID must be a whole number, got '-1'"),
        (OWN | {"JAX_NUM_PROCESSES": "many"}, "JAX_NUM_PROCESSES must be a whole number"),
        (OWN | {"JAX_NUM_PROCESSES": "6"}, "must be a power of two, got 6"),
        ({"SLURM_STEP_NUM_TASKS": "6"}, "must be a power of two, got 6"),
        (OWN | {"JAX_LOCAL_DEVICE_IDS": "all"}, "must be numbers as 0,1,2, got 'all'"),
    ],
)
def test_half_a_place_is_refused(environ, sentence, monkeypatch, capsys):
    with pytest.raises(ValueError, match=re.escape(sentence)) as told:
        place_of(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "probe/linear"]) == 2
    assert capsys.readouterr().err == f"nesht: {told.value}\n"


# ----------------------------------------------------------------------------------- launch files


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_launch_scripts_are_bash(path):
    subprocess.run(["bash", "-n", path], check=True)


def test_the_job_of_kubernetes_tells_every_pod_its_place():
    (file,) = LAUNCH.glob("*.yaml")
    service, job = YAML(typ="safe").load_all(file.read_text(encoding="utf-8"))
    pod, number = job["spec"]["template"]["spec"], job["spec"]["completions"]
    (container,) = pod["containers"]
    environ = {entry["name"]: entry.get("value", "0") for entry in container["env"]}
    address = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert place_of(environ) == Place(f"{address}:{service['spec']['ports'][0]['port']}", number, 0)
    assert pod["subdomain"] == service["metadata"]["name"]
    assert job["spec"]["parallelism"] == number


def test_a_command_asks_the_launcher_before_it_loads_jax():
    code = "import sys, nesht_jax.run.launcher; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
