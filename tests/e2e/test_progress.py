"""Progress on a real cluster: a kubelet's token, TLS by a Service's name, the API server's review (20 s)."""

import pytest
from capstan_demo.kube import Kube, Manifest, condition

pytestmark = pytest.mark.cluster


def training_job(image: str, program: str) -> Manifest:
    return {
        "apiVersion": "capstan.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "job"},
        "spec": {"framework": "custom", "image": image, "command": ["python3", "-c", program], "replicas": 2},
    }


def test_what_a_program_reports_is_shown(installed, kube: Kube, namespace: str) -> None:
    program = (
        "import signal\n"
        "from capstan import report\n"
        "report(step=1200, total=5000, loss=0.25)\n"
        "signal.signal(signal.SIGUSR1, lambda *_: (report(step=5000), exit()))\n"
        "signal.pause()"
    )
    kube.apply(training_job(installed.images["operator"], program), namespace=namespace)
    job = kube.wait("trainingjob", "job", namespace, lambda job: "progress" in job.get("status", {}))
    told = job["status"]["progress"]
    assert (told["step"], told["percent"], told["metrics"]) == (1200, 24, {"loss": 0.25})
    assert condition(job, "ProgressReported")["status"] == "True"
    assert "1200/5000 24%" in kube.run("get", "trainingjob", "job", "-n", namespace)
    enough = ("python3", "-c", "import os, signal; os.kill(1, signal.SIGUSR1)")
    for pod in kube.list("pods", namespace, "capstan.dev/name=job"):
        kube.run("exec", "-n", namespace, pod["metadata"]["name"], "-c", "trainer", "--", *enough)
    job = kube.wait("trainingjob", "job", namespace, lambda job: job["status"]["phase"] == "Succeeded")
    assert job["status"]["progress"]["summary"] == "5000/5000 100%", "the last word is told at the end"
