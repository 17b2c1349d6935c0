"""Manifests and Dockerfile: well formed, and in step with the server."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from eenet.scale.ray_serve import Arguments
from eenet.serving.run import DRAIN_SECONDS, TOKEN_VARIABLE
from eenet.training import RECIPES, get_recipe
from eenet.training.state import STATE_FILE

DEPLOY = Path(__file__).parents[1] / "deploy"
PATHS = {"/v2/health/ready", "/v2/health/live", "/metrics"}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.mark.parametrize("name", ["kubernetes.yaml", "kserve.yaml", "kserve-ray.yaml"])
def test_objects_are_complete(name: str) -> None:
    for one in documents(name):
        content = "data" if one["kind"] == "ConfigMap" else "spec"
        assert {"apiVersion", "kind", "metadata", content} <= one.keys()
    text = (DEPLOY / name).read_text()
    assert set(re.findall(r"path: (/\S*?)[,\s]", text)) <= PATHS


def test_kubernetes() -> None:
    deployment, service = documents("kubernetes.yaml")
    pod = deployment["spec"]["template"]["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    assert pod["terminationGracePeriodSeconds"] > DRAIN_SECONDS
    (container,) = pod["containers"]
    assert TOKEN_VARIABLE in [variable["name"] for variable in container["env"]]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert container["ports"][0]["name"] == service["spec"]["ports"][0]["targetPort"]


def test_kserve_starts_what_it_configures() -> None:
    configured, service = documents("kserve-ray.yaml")
    ((file, text),) = configured["data"].items()
    configuration = yaml.safe_load(text)
    (application,) = configuration["applications"]
    Arguments(**application["args"])
    (container,) = service["spec"]["predictor"]["containers"]
    assert configuration["http_options"]["port"] == container["ports"][0]["containerPort"]
    assert container["readinessProbe"]["httpGet"]["port"] == configuration["http_options"]["port"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["command"][-1] == f"{mounts['configuration']}/{file}"
    volumes = {volume["name"]: volume for volume in service["spec"]["predictor"]["volumes"]}
    assert volumes["configuration"]["configMap"]["name"] == configured["metadata"]["name"]


def launched(words: list[str]) -> None:
    """What a launcher is told: `torchrun` with its flags, then `eenet train` with ours."""
    at = words.index("eenet")
    assert words[at - 1] == "-m"
    given = set(re.findall(r"--[\w-]+", " ".join(words[:at])))
    known = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert given <= known
    verb, recipe, *rest = words[at + 1 :]
    assert (verb, recipe in RECIPES) == ("train", True)
    assert {word for word in rest if word.startswith("--")} <= {"--out"}


def test_slurm() -> None:
    text = (DEPLOY / "slurm.sh").read_text()
    assert subprocess.run(["bash", "-n", DEPLOY / "slurm.sh"], check=False).returncode == 0
    line = re.sub(r"\\\n", " ", text).splitlines()[-1].replace(' "${resume[@]}"', "")
    words = shlex.split(line)
    assert words[:2] == ["srun", "torchrun"]
    launched(words[1:])
    processes = int(words[words.index("--nproc-per-node") + 1])
    assert f"--gpus-per-node={processes}" in text
    nodes = int(re.findall(r"--nodes=(\d+)", text)[0])
    assert get_recipe("imagenet-resnet50").batch_size % (nodes * processes) == 0
    assert STATE_FILE in text


def test_kubeflow_trainer() -> None:
    (job,) = documents("trainjob.yaml")
    assert (job["kind"], job["apiVersion"].partition("/")[0]) == ("TrainJob", "trainer.kubeflow.org")
    trainer = job["spec"]["trainer"]
    launched(trainer["command"])
    processes = trainer["numNodes"] * trainer["numProcPerNode"]
    assert get_recipe("cifar10-resnet20").batch_size % processes == 0


def test_dockerfile() -> None:
    """Every line is an instruction, and copies what is there."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    known = {
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "EXPOSE",
        "HEALTHCHECK",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "CMD",
    }
    assert [line.split()[0] for line in lines if line.split()[0] not in known] == []
    assert lines[0].startswith("FROM ")
    for line in lines:
        if line.startswith("COPY "):
            for source in shlex.split(line)[1:-1]:
                assert (DEPLOY.parent / source).exists(), source
