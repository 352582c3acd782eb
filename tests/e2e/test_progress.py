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


CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "checkpoints"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}},
}


def test_a_job_that_hangs_goes_on_where_it_was(installed, kube: Kube, namespace: str) -> None:
    """Its first attempt saves and hangs; its second finds what was saved (25 s)."""
    program = (
        "import os, threading\n"
        "from capstan import checkpoint\n"
        "def waits_in_vain():\n"
        "    threading.Event().wait()\n"
        "resume = os.environ.get('CAPSTAN_RESUME_FROM')\n"
        "if resume:\n"
        "    assert open(resume + '/state').read() == 'five', resume\n"
        "else:\n"
        "    with checkpoint(step=5) as folder: (folder / 'state').write_text('five')\n"
        "    waits_in_vain()\n"
    )
    job = training_job(installed.images["operator"], program)
    job["spec"] |= {
        "replicas": 1,
        "checkpoint": {"uri": "pvc://checkpoints/job"},
        "failurePolicy": {"hang": {"maxRestarts": 1, "timeout": "5s"}},
    }
    kube.apply(CLAIM, namespace=namespace)
    kube.apply(job, namespace=namespace)
    job = kube.wait("trainingjob", "job", namespace, lambda job: job.get("status", {}).get("completionTime"))
    status = job["status"]
    assert (status["phase"], status["attempt"], status["restarts"]) == ("Succeeded", 2, {"hang": 1}), status
    assert status["failure"]["reason"] == "Hung"
    assert "waits_in_vain" in status["failure"]["log"]
    told = status["checkpoint"]
    assert (told["step"], told["uri"]) == (5, "pvc://checkpoints/job/step-5-attempt-1")
