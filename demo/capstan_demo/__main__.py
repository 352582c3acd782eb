"""`make demo`: from `kubectl apply` to an answered query, told step by step.

Exits non-zero when any of it fails.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from capstan_cluster.errors import ClusterError
from capstan_images import ImageError

from capstan_demo import deploy, digits, environment, prometheus, report
from capstan_demo.kube import Kube, KubectlError, WaitTimeout
from capstan_demo.story import Story, table

NEXT = """\
{setup}
kubectl -n capstan-demo get trainingjobs,inferenceservices,pods
kubectl -n capstan-demo describe trainingjob digits
kubectl explain inferenceservice.spec.model
kubectl -n capstan-demo port-forward service/digits 8000 & sleep 1
curl -s localhost:8000/v2/models/digits
kubectl -n capstan-monitoring port-forward service/prometheus 9090 & sleep 1    # http://localhost:9090
# a new revision takes over when it is ready, a broken one never does
kubectl -n capstan-demo patch infsvc digits --type merge -p '{{"spec": {{"model": {{"version": "2"}}}}}}'
kubectl -n capstan-demo get infsvc digits --watch
make down    # take all of it away again"""


def setup(kube: Kube) -> str:
    """Return what a shell needs so that `kubectl` is one, and talks to this cluster."""
    lines = [f"export KUBECONFIG={kube.kubeconfig}"]
    if not shutil.which("kubectl"):
        lines.append(f"export PATH=$PATH:{Path(kube.kubectl).parent}")
    lines.append(f"kubectl config use-context {kube.context}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    options = argparse.ArgumentParser(
        prog="capstan-demo", description="Train, export, serve and query a model on a Kubernetes cluster."
    )
    given = {name: os.environ.get(name) or None for name in ("CONTEXT", "REGISTRY", "TAG")}
    options.add_argument(
        "--context",
        default=given["CONTEXT"],
        help="a context of your kubeconfig; without one, a local cluster is booted ($CONTEXT)",
    )
    options.add_argument(
        "--registry",
        default=given["REGISTRY"],
        help="take the images from this registry instead of building them ($REGISTRY)",
    )
    options.add_argument(
        "--tag",
        default=given["TAG"] or environment.VERSION,
        help="the images' tag in that registry ($TAG; default: %(default)s)",
    )
    options.add_argument("--install-only", action="store_true", help="stop when Capstan runs on the cluster")
    return options


def tell(arguments: argparse.Namespace) -> None:
    """Tell the whole story; raise on the first thing that goes wrong."""
    story = Story("Capstan: from `kubectl apply` to an answered query, on a real Kubernetes")
    published = environment.Published(arguments.registry, arguments.tag) if arguments.registry else None
    with story.step("A Kubernetes cluster, and Capstan's images on it"):
        prepared = environment.prepare(story.say, arguments.context, published)
        kube, images = prepared.kube, prepared.images
        story.say(kube.run("get", "nodes", "-L", "accelerator").strip())
    with story.step("Capstan itself, from its Helm chart"):
        deploy.install(kube, environment.helm(story.say), images, story.say)
    if arguments.install_only:
        return
    with digits.explaining(kube, story.say):
        with story.step(
            f"A namespace, {digits.NAMESPACE}, that enforces the restricted Pod Security Standard"
        ):
            digits.prepare(kube)
        with story.step("Prometheus watches (manifests/observability)"):
            prometheus.watch(kube, images["prometheus"])
        with story.step(
            "Train: PyTorch, two replicas, handwritten digits (manifests/samples/trainingjob-digits.yaml)"
        ):
            job = digits.train(kube, images["trainer"], story.say)
            story.say(kube.run("get", "trainingjobs", "-n", digits.NAMESPACE).strip())
        with story.step("Serve: the model it wrote (manifests/samples/inferenceservice-digits.yaml)"):
            service = digits.serve(kube, story.say)
            story.say(kube.run("get", "inferenceservices", "-n", digits.NAMESPACE).strip())
        with story.step("Query: every held-out digit, over HTTP and gRPC, with the real tritonclient"):
            measured = digits.query(kube, images["trainer"], service)
        with story.step("What Prometheus saw of it"):
            requests = sum(measured[protocol]["requests"] for protocol in ("http", "grpc"))
            story.say(table(prometheus.seen(prometheus.Prometheus(kube), requests)))
    print(f"{report.outcome(job, service, measured)}\n\nTime per step\n{table(story.times())}\n")
    if short := report.problems(job, service, measured):
        raise digits.DemoError("\n".join(short))
    print("What to try next\n" + NEXT.format(setup=setup(kube)))


def main() -> int:
    """Run the demo; return the exit status."""
    arguments = parser().parse_args()
    try:
        tell(arguments)
    except (ClusterError, ImageError, deploy.HelmError, digits.DemoError, KubectlError, WaitTimeout) as error:
        print(f"capstan-demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
