"""launch/gke_jobset.yaml against the schemas of JobSet and of Kubernetes."""

import copy
import json
import pathlib
import re

import jsonschema
import kubernetes_validate
import pytest
import yaml

HERE = pathlib.Path(__file__).parent
FILE = HERE.parents[1] / "launch" / "gke_jobset.yaml"
SCHEMA = json.loads((HERE / "jobset_v1alpha2.json").read_text())
GPU, TPU = yaml.safe_load_all(FILE.read_text())
BOTH = pytest.mark.parametrize("jobset", [GPU, TPU], ids=["gpu", "tpu"])


def check(jobset):
    """Raises jsonschema's or kubernetes_validate's ValidationError."""
    jsonschema.validate(jobset, SCHEMA)
    for job in jobset["spec"]["replicatedJobs"]:
        name = {"name": f"{jobset['metadata']['name']}-{job['name']}-0"}
        template = {"apiVersion": "batch/v1", "kind": "Job", "metadata": name}
        # 1.27 has JobSet's first version, 1.37 is the newest that the package knows.
        for version in ("1.27", "1.37"):
            kubernetes_validate.validate(
                {**template, **job["template"]}, version, strict=True
            )


def job_of(jobset):
    """The only replicated job, its job and its pod."""
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    return replicated, job, job["template"]["spec"]


@BOTH
def test_the_schemas_accept_it(jobset):
    check(jobset)


@pytest.mark.parametrize(
    "path, key, value",
    [
        ((), "sepc", {}),
        (("metadata",), "name", "Vidpred_GPU"),
        (("spec", "failurePolicy"), "maxRestart", 3),
        (("spec", "failurePolicy"), "restartStrategy", "Always"),
        (("spec", "replicatedJobs", 0), "completions", 2),
        (("spec", "replicatedJobs", 0, "template", "spec"), "completionmode", ""),
        (("spec", "replicatedJobs", 0, "template", "spec"), "parallelism", "2"),
        (
            ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec"),
            "terminationGracePeriod",
            300,
        ),
    ],
)
def test_the_schemas_refuse_what_is_misspelt(path, key, value):
    jobset = copy.deepcopy(GPU)
    part = jobset
    for name in path:
        part = part[name]
    part[key] = value
    with pytest.raises(
        (jsonschema.ValidationError, kubernetes_validate.ValidationError)
    ):
        check(jobset)


@BOTH
def test_a_lost_pod_starts_all_again_and_none_twice(jobset):
    replicated, job, pod = job_of(jobset)
    assert replicated.get("replicas", 1) == 1
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0 and policy["restartStrategy"] == "BlockingRecreate"
    assert pod["terminationGracePeriodSeconds"] >= 120  # to save
    (container,) = pod["containers"]
    assert (FILE.parents[1] / container["command"][0]).stat().st_mode & 0o100
    assert not container.get("args")


def test_processes_of_gpu_pods_find_each_other():
    replicated, job, pod = job_of(GPU)
    variables = {one["name"]: one for one in pod["containers"][0]["env"]}
    name = GPU["metadata"]["name"]
    host = f"{name}-{replicated['name']}-0-0.{name}"  # pod 0 by JobSet's service
    address = variables["JAX_COORDINATOR_ADDRESS"]["value"]
    assert re.fullmatch(rf"{re.escape(host)}:\d+", address)
    assert variables["JAX_NUM_PROCESSES"]["value"] == str(job["parallelism"])
    field = variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert "batch.kubernetes.io/job-completion-index" in field


def test_on_tpu_jax_finds_the_others_itself():
    _, _, pod = job_of(TPU)
    (container,) = pod["containers"]
    assert "env" not in container
    assert container["resources"]["limits"]["google.com/tpu"]
    assert "cloud.google.com/gke-tpu-topology" in pod["nodeSelector"]


@BOTH
def test_what_is_ones_own_is_a_placeholder(jobset):
    _, _, pod = job_of(jobset)
    (container,) = pod["containers"]
    (volume,) = pod["volumes"]
    own = [container["image"], volume["persistentVolumeClaim"]["claimName"]]
    own += pod["nodeSelector"].values()
    assert all(value.startswith("YOUR-") for value in own), own
