"""The launchers say to torchrun and SLURM what they should; no cluster is needed to read them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("one_node.sh", "many_nodes.sh", "slurm.sbatch")


@pytest.fixture
def place(tmp_path) -> Path:
    """The scripts in a folder of their own, with programs that only print how they were called."""
    (tmp_path / "scripts").mkdir()
    for name in NAMES:
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts" / name)
    fakes = {
        "python": 'printf "%s\\n" "$@"',
        "srun": 'shift; echo "srun NODES=$NODES"; "$@"; exit ${SRUN_CODE:-0}',
        "scontrol": 'if [[ $1 == show ]]; then printf "node07\\nnode08\\n"; else echo "scontrol $*"; fi',
    }
    (tmp_path / "bin").mkdir()
    for name, text in fakes.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/usr/bin/env bash\n{text}\n")
        file.chmod(0o755)
    return tmp_path


def call(place: Path, name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PYTHON"))}
    for variable in ("NODES", "HEAD", "PORT", "GPUS", "RESTARTS", "JOB"):
        kept.pop(variable, None)
    kept["PATH"] = f"{place / 'bin'}:{kept['PATH']}"
    script = ["bash", str(place / "scripts" / name), *words]
    return subprocess.run(script, env=kept | environment, capture_output=True, text=True, cwd=place)


def options(text: str) -> tuple[dict[str, str], list[str]]:
    """torchrun's options, as its own parser understands them, and the program with its words."""
    from torch.distributed.run import get_args_parser

    words = text.split("\n")
    words = words[words.index("torch.distributed.run") + 1 :]
    found = get_args_parser().parse_args([word for word in words if word])
    return vars(found), [found.training_script, *found.training_script_args]


RUN = ["python", "-m", "helpers.run", "04_brain_jepa", "--profile", "full", "-p", "x=a b", "--continue"]


def test_one_node(place):
    done = call(place, "one_node.sh", *RUN[3:-1], GPUS="8")
    found, program = options(done.stdout)
    assert program == RUN
    assert found["standalone"] and found["no_python"]
    assert (found["nproc_per_node"], found["max_restarts"]) == ("8", 3)
    found, _ = options(call(place, "one_node.sh", "x", RESTARTS="0").stdout)
    assert (found["nproc_per_node"], found["max_restarts"]) == ("gpu", 0)


def test_many_nodes(place):
    done = call(place, "many_nodes.sh", *RUN[3:-1], NODES="4", HEAD="node01", GPUS="8")
    found, program = options(done.stdout)
    assert program == RUN and not found["standalone"]
    assert (found["nnodes"], found["rdzv_backend"], found["rdzv_id"]) == ("4", "c10d", "04_brain_jepa")
    assert found["rdzv_endpoint"] == "node01:29500"


SLURM = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "41234", "SLURM_JOB_NODELIST": "node[07-08]"}


def test_slurm(place):
    here = SLURM | {"SLURM_SUBMIT_DIR": str(place), "SLURM_GPUS_ON_NODE": "4"}
    done = call(place, "slurm.sbatch", *RUN[3:-1], **here)
    assert done.returncode == 0 and "srun NODES=2" in done.stdout, done.stderr
    found, program = options(done.stdout)
    assert program == RUN
    assert (found["nnodes"], found["nproc_per_node"], found["rdzv_id"]) == ("2", "4", "41234")
    assert found["rdzv_endpoint"] == "node07:21234"
    stopped = call(place, "slurm.sbatch", "x", **here, SRUN_CODE="143")
    assert stopped.returncode == 143 and "scontrol requeue 41234" in stopped.stdout
    failed = call(place, "slurm.sbatch", "x", **here, SRUN_CODE="1")
    assert failed.returncode == 1 and "requeue" not in failed.stdout
    head = (ROOT / "scripts" / "slurm.sbatch").read_text().partition("set -euo")[0]
    assert re.findall(r"^#SBATCH --([\w-]+)", head, re.M) == [
        "job-name", "nodes", "ntasks-per-node", "cpus-per-task", "signal", "requeue", "open-mode", "output"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name, words, environment, says",
    [
        ("one_node.sh", [], {}, "usage: GPUS=8"),
        ("one_node.sh", ["--profile", "full"], {}, "usage: GPUS=8"),
        ("many_nodes.sh", ["x"], {}, "say how many machines"),
        ("many_nodes.sh", ["x"], {"NODES": "2"}, "say where they meet"),
        ("slurm.sbatch", ["x"], {}, "start this with sbatch"),
        ("slurm.sbatch", ["x"], SLURM | {"SLURM_SUBMIT_DIR": "/"}, "not from /"),
    ],
)
def test_what_is_missing_is_said(place, name, words, environment, says):
    done = call(place, name, *words, **environment)
    assert done.returncode != 0 and says in done.stderr and "torch" not in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_they_are_sound(name):
    file = ROOT / "scripts" / name
    assert subprocess.run(["bash", "-n", str(file)]).returncode == 0
    assert os.access(file, os.X_OK) or name.endswith(".sbatch")
    assert max(map(len, file.read_text().splitlines())) <= 120 and sys.executable not in file.read_text()
