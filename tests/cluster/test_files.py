"""The files in cluster/ against the schemas that Ray and KubeRay publish, unknown fields refused."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from kcframe import __version__

CLUSTER = Path(__file__).parents[2] / "cluster"
DEFINITIONS = {"RayCluster": "rayclusters.yaml.gz", "RayJob": "rayjobs.yaml.gz"}  # KubeRay's own


def kuberay_schema(kind: str) -> dict:
    with gzip.open(Path(__file__).parent / DEFINITIONS[kind], "rt") as file:
        definition = yaml.safe_load(file)
    version = next(v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    # A definition leaves what every Kubernetes object has to Kubernetes.
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return strict(schema)


def strict(schema: dict) -> dict:
    """Refuse unknown fields at every level that names its fields, as `kubectl apply` does."""
    for part in schema.values():
        if isinstance(part, dict):
            strict(part)
        elif isinstance(part, list):
            for each in part:
                if isinstance(each, dict):
                    strict(each)
    keeps_others = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not keeps_others:
        schema.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        schema["type"] = ["integer", "string"]
    return schema


def read(name: str) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text())


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_kuberay_manifests(name):
    manifest = read(name)
    schema = kuberay_schema(manifest["kind"])
    jsonschema.validate(manifest, schema)

    wrong = copy.deepcopy(manifest)
    spec = wrong["spec"].get("rayClusterSpec", wrong["spec"])
    spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        jsonschema.validate(wrong, schema)


def test_job_and_cluster_are_the_same_machines():
    job, cluster = read("kuberay-job.yaml")["spec"]["rayClusterSpec"], read("kuberay-cluster.yaml")["spec"]
    assert job["workerGroupSpecs"] == cluster["workerGroupSpecs"]
    assert job["autoscalerOptions"] == cluster["autoscalerOptions"]


def test_the_ray_up_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    wanted = read("aws.yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(wanted, schema)
    validate_config(prepare_config(copy.deepcopy(wanted)))
    with pytest.raises(jsonschema.ValidationError, match="max_wrokers"):
        jsonschema.validate({**wanted, "max_wrokers": 1}, schema)


def test_versions_are_ours():
    """The image, the manifests and the tested set of packages name the same Ray and the same kcframe."""
    constraints = (CLUSTER.parent / "constraints.txt").read_text()
    tested = next(line.partition("==")[2] for line in constraints.splitlines() if line.startswith("ray=="))
    assert f"rayproject/ray:{tested}-" in (CLUSTER / "Containerfile").read_text()
    assert read("kuberay-cluster.yaml")["spec"]["rayVersion"] == tested
    for name in ("aws.yaml", "kuberay-cluster.yaml", "kuberay-job.yaml", "Containerfile"):
        assert f"kcframe:{__version__}" in (CLUSTER / name).read_text()
