"""The Kubernetes manifests against the schemas that Kubernetes and the Flink operator publish."""

from __future__ import annotations

import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

FLINK = Path(__file__).resolve().parents[2] / "deploy" / "flink"
MANIFESTS = sorted((FLINK / "kubernetes").glob("*.yaml"))
KUBERNETES = "1.33"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_what_kubernetes_takes(path: Path) -> None:
    for document in documents(path):
        if document["kind"] == "FlinkDeployment":
            # Of the operator's resource, Kubernetes itself knows the pods.
            pod = copy.deepcopy(document["spec"]["taskManager"]["podTemplate"])
            document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **pod}
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_misspelt_field_is_found() -> None:
    (document,) = documents(FLINK / "kubernetes" / "nightly.yaml")
    document["spec"]["concurencyPolicy"] = document["spec"].pop("concurrencyPolicy")

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.flink
@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-gpu.yaml"])
def test_clusters_are_what_the_operator_takes(name: str) -> None:
    settings = f"source {FLINK}/settings.sh && echo $cache"
    cache = subprocess.run(["bash", "-c", settings], check=True, stdout=subprocess.PIPE, text=True)
    # Half a megabyte: in pure Python it takes minutes.
    text = (Path(cache.stdout.strip()) / "flinkdeployments.yaml").read_text()
    definition = yaml.load(text, yaml.CSafeLoader)
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1beta1")
    schema = strict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    (document,) = documents(FLINK / "kubernetes" / name)

    jsonschema.validate(document["spec"], schema)
    document["spec"]["taskManager"]["podTemplates"] = {}
    with pytest.raises(jsonschema.ValidationError, match="podTemplates"):
        jsonschema.validate(document["spec"], schema)


def test_the_gpu_variant_is_the_cluster_with_a_gpu() -> None:
    (plain,) = documents(FLINK / "kubernetes" / "cluster.yaml")
    (gpu,) = documents(FLINK / "kubernetes" / "cluster-gpu.yaml")

    pod = gpu["spec"]["taskManager"]["podTemplate"]["spec"]
    (worker,) = (one for one in pod["containers"] if one["name"] == "beam-worker-pool")
    assert worker["resources"]["limits"].pop("nvidia.com/gpu") == "1"
    worker["image"] = worker["image"].removesuffix("-cuda")
    assert pod.pop("nodeSelector") and pod.pop("tolerations")
    assert gpu == plain


def test_manifests_and_scripts_name_the_same_versions_and_restarts() -> None:
    versions = dict(re.findall(r"^(\w+)=(.*)$", (FLINK / "versions.env").read_text(), re.M))
    flink, beam = versions["FLINK_VERSION"], versions["BEAM_FLINK_VERSION"]
    minor = flink.rpartition(".")[0]
    (cluster,) = documents(FLINK / "kubernetes" / "cluster.yaml")
    job_server = (FLINK / "kubernetes" / "job-server.yaml").read_text()
    here = yaml.safe_load((FLINK / "config.yaml").read_text())
    there = cluster["spec"]["flinkConfiguration"]

    assert cluster["spec"]["image"].startswith(f"flink:{flink}-")
    assert cluster["spec"]["flinkVersion"] == f"v{minor.replace('.', '_')}"
    assert f"image: apache/beam_flink{minor}_job_server:{beam}\n" in job_server
    restarts = {name: str(value) for name, value in here.items() if name.startswith("restart")}
    assert restarts == {name: v for name, v in there.items() if name.startswith("restart")}


def strict(schema: Any) -> Any:
    """The schema, refusing fields that it does not name (Kubernetes would drop them)."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    if found.get("type") == "object" and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found
