"""What follows from measured figures, and that the examples of bundle/docs/speed.md hold together."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from benchmarks import many_studies, scaling
from scripts import checks, datalists
from scripts.environment import BUNDLE_ROOT

TEXT = (BUNDLE_ROOT / "docs" / "speed.md").read_text(encoding="utf-8")


def blocks(language):
    found = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return [block for block in found if language != "bash" or "#SBATCH" in block]


def torchrun(command, **variables):
    """The options of a torchrun command, as it reads them itself, and the command that it runs."""
    for name, value in variables.items():
        assert f"${name}" in command
        command = command.replace(f"${name}", value)
    words = shlex.split(command.replace("\\\n", " "))
    return get_args_parser().parse_args(words[words.index("torchrun") + 1 :])


def test_many_studies_by_hand():
    row = many_studies.prediction(100_000, 36, 6e6, 2e6, tables=1e3, start=100, decode=2.88, efficiency=0.5)
    assert row == {
        "studies": "100,000",
        "jobs": "10",
        "machine hours": "2,000.6",  # (3,600,000 + 1,000) / 0.5 s
        "machines for a night": "251",  # 7,202,000 s in nights of 28,800 s
        "read": "600.0 GB",
        "written": "200.1 GB",
        "storage, a second": "27.8 MB",
        "cores that only decode": "10.0",
        "files": "800,000",
        "tables, were it one job": "100.0 MB",
    }
    assert [many_studies.prediction(studies, 1, 1, 1)["jobs"] for studies in (1, 10_000, 10_001)] == ["1", "1", "2"]
    assert many_studies.epoch("stage 1", 1000, 0.5, items=20, size=1e4, efficiency=0.8) == {
        "an epoch": "stage 1, 1,000 studies",
        "machine hours": "3.5",
        "machines for a night": "1",
        "read": "200.0 MB",
    }


def test_tables_of_the_document_are_those_of_its_command():
    (command,) = re.findall(r"benchmarks\.many_studies (.*?)\n```", TEXT, re.DOTALL)
    words = iter(shlex.split(command.replace("\\\n", " ")))
    figures = {name.removeprefix("--"): json.loads(value) for name, value in zip(words, words, strict=True)}
    for table in many_studies.derived(**figures).split("\n\n"):
        assert table in TEXT


def test_sides_are_compared():
    one, two = scaling.compared(
        "x", {"one process": [4, 6, 5], "two processes": [3, 2, 2.5]}, {side: [9] for side in scaling.SIDES}, "equal"
    )
    assert one["work"] == "5.0 s (4.0 to 6.0)"
    assert (two["times as fast"], two["efficiency"], two["results"]) == ("2.00", "1.00", "equal")


@pytest.mark.parametrize("stage", scaling.TRAININGS)
def test_what_the_trainings_change_is_there(stage):
    checks.settings(f"train_{stage}", scaling.TRAININGS[stage])


def test_scripts_are_bash():
    scripts = blocks("bash")
    assert len(scripts) == 2
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_slurm_trains_on_all_nodes():
    (script,) = [script for script in blocks("bash") if "torchrun" in script]
    (inner,) = re.findall(r"bash -c '(.*?)'", script, re.DOTALL)
    options = torchrun(inner, SLURM_NNODES="4", SLURM_NODEID="2", head="first")
    assert (options.nnodes, options.node_rank, options.master_addr) == ("4", 2, "first")
    assert "#SBATCH --nodes=4\n" in script
    assert "export head\n" in script
    assert f"--gpus-per-node={options.nproc_per_node}" in script
    assert "#SBATCH --ntasks-per-node=1\n" in script
    assert options.no_python
    assert [options.training_script, *options.training_script_args[:2]] == ["radiogenomics", "train", "segmentation"]


def test_manifest_agrees_with_itself():
    service, job = yaml.safe_load_all(blocks("yaml")[0])
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    options = torchrun(container["args"][0], JOB_COMPLETION_INDEX="3")
    subprocess.run(["bash", "-n"], input=container["args"][0], text=True, check=True)
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(options.nnodes)
    assert (options.node_rank, options.no_python) == (3, True)
    assert options.master_addr == f"{name}-0.{service['metadata']['name']}"
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert options.master_port == service["spec"]["ports"][0]["port"] == container["ports"][0]["containerPort"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(options.nproc_per_node)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_shards_hold_every_study_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entries = [{"patient": f"{number:05d}", "FLAIR": f"{number:05d}/FLAIR"} for number in range(7)]
    Path("cohort.json").write_text(json.dumps({"training": entries[:2], "test": entries[2:]}))
    (code,) = blocks("python")
    exec(code.replace("10_000", "3"), {})
    files = sorted(Path("shards").iterdir())
    assert [file.name for file in files] == ["00000.json", "00001.json", "00002.json"]
    found = [entry["patient"] for file in files for entry in datalists.select(tmp_path, file)]
    assert found == [entry["patient"] for entry in entries]
