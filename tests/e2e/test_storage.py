"""Models and data from where they are kept, and what is said when they cannot be had."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import obstore
import pytest
from capstan_cluster.build import Builder, module_of
from capstan_cluster.config import Config
from capstan_demo.kube import Kube, Manifest, condition, until
from obstore.store import S3Store

from tests.e2e.test_serving import adder, answer, because, digest, ready, service, write
from tests.e2e.test_training import finished, phase, training_job

pytestmark = pytest.mark.cluster

READ_BUT_NOT_WRITE = """
import os, pathlib
folder = pathlib.Path(os.environ["CAPSTAN_DATA_LABELS"])
assert folder == pathlib.Path("/data/labels"), folder
assert (folder / "names.txt").read_text() == "zero", list(folder.iterdir())
try:
    (folder / "more.txt").write_text("x")
except OSError:
    print("read-only")
else:
    raise SystemExit("the data can be changed")
"""


def data(uri: str, **more: object) -> Manifest:
    return {"name": "labels", "uri": uri, "mountPath": "/data/labels", **more}


def test_data_on_a_volume_is_read_where_it_is(installed, kube: Kube, namespace: str) -> None:
    write(kube, installed, namespace, "sets/labels/names.txt", b"zero")
    command = ["python3", "-c", READ_BUT_NOT_WRITE]
    kube.apply(training_job(installed, command, data=[data("pvc://models/sets/labels")]), namespace=namespace)
    job = kube.wait("trainingjob", "job", namespace, finished)
    assert phase(job) == "Succeeded", job["status"]
    policy = kube.get("networkpolicy", "job-peers", namespace)
    assert policy is not None
    assert [port["port"] for port in policy["spec"]["ingress"][1]["ports"]] == [8003]


def test_a_secret_that_is_not_there_is_named(installed, kube: Kube, namespace: str) -> None:
    secret = {"secretRef": {"name": "nowhere"}}
    kube.apply(service("s3://models/one.onnx", credentials=secret), namespace=namespace)
    kube.apply(
        training_job(installed, ["true"], data=[data("s3://models/labels", credentials=secret)]),
        namespace=namespace,
    )
    for kind, name in (("inferenceservice", "adder"), ("trainingjob", "job")):
        resource = kube.wait(kind, name, namespace, because("Ready", "ContainerConfigInvalid"))
        message = condition(resource, "Ready")["message"]
        assert 'secret "nowhere" not found' in message
        assert "credentials.secretRef" in message


USER, PASSWORD = "reader", "s3cr3t-s3cr3t"
CREDENTIALS = {"secretRef": {"name": "bucket"}}
MODEL, NAMES = adder(1), b"zero"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 gateway on this machine, where pods reach it, with a bucket of a model and of data."""
    host = str(Config.load().address)
    with socket.create_server((host, 0)) as free:
        port = free.getsockname()[1]
    builder = Builder()
    builder.build((module_of("versitygw"),), print)
    root, sidecar = (tmp_path_factory.mktemp(name) for name in ("s3", "s3-meta"))
    (root / "models").mkdir()
    options = ["--port", f"{host}:{port}", "--access", USER, "--secret", PASSWORD, "--quiet"]
    gateway = subprocess.Popen(
        [builder.path("versitygw"), *options, "posix", "--sidecar", sidecar, root], stdout=subprocess.DEVNULL
    )

    def listening() -> bool:
        with suppress(OSError), socket.create_connection((host, port), 1):
            return True
        return gateway.poll() is not None

    try:
        until(listening, seconds=60)
        store = S3Store(
            "models",
            endpoint=f"http://{host}:{port}",
            access_key_id=USER,
            secret_access_key=PASSWORD,
            region="us-east-1",
            client_options={"allow_http": True},
        )
        obstore.put(store, "one.onnx", MODEL)
        obstore.put(store, "labels/names.txt", NAMES)
        yield f"http://{host}:{port}"
    finally:
        gateway.terminate()
        gateway.wait(30)


def secret(endpoint: str, password: str) -> Manifest:
    keys = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": USER,
        "AWS_SECRET_ACCESS_KEY": password,
    }
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bucket"}, "stringData": keys}


@pytest.mark.local
def test_a_model_in_a_bucket_is_served_once_its_credentials_are_right(
    installed, kube: Kube, namespace: str, s3: str
) -> None:
    kube.apply(
        secret(s3, "wrong"),
        service("s3://models/one.onnx", credentials=CREDENTIALS, digest=digest(MODEL)),
        namespace=namespace,
    )
    resource = kube.wait("inferenceservice", "adder", namespace, because("Ready", "PermissionDenied"))
    assert condition(resource, "ModelAvailable")["reason"] == "PermissionDenied"
    assert PASSWORD not in str(resource)
    kube.apply(secret(s3, PASSWORD), namespace=namespace)
    kube.wait("inferenceservice", "adder", namespace, ready, seconds=240)
    assert answer(kube, namespace) == (2, 2)


@pytest.mark.local
def test_data_in_a_bucket_is_there_before_the_program_starts(
    installed, kube: Kube, namespace: str, s3: str
) -> None:
    items = [data("s3://models/labels", credentials=CREDENTIALS)]
    command = ["python3", "-c", READ_BUT_NOT_WRITE + "assert 'AWS_REGION' not in os.environ"]
    kube.apply(secret(s3, PASSWORD), training_job(installed, command, data=items), namespace=namespace)
    job = kube.wait("trainingjob", "job", namespace, finished)
    assert phase(job) == "Succeeded", job["status"]


@pytest.mark.local
def test_other_data_than_was_named_fails_the_job(installed, kube: Kube, namespace: str, s3: str) -> None:
    other = data("s3://models/labels/names.txt", credentials=CREDENTIALS, digest=digest(b"one"))
    job = training_job(installed, ["true"], data=[other])
    kube.apply(secret(s3, PASSWORD), job, namespace=namespace)
    failed = kube.wait("trainingjob", "job", namespace, finished)
    failure = failed["status"]["failure"]
    assert (failure["class"], failure["reason"]) == ("user", "DigestMismatch"), failure
    assert failure["container"] == "fetch-labels"
