"""The custom resources there are, for the shell to watch and plan."""

from __future__ import annotations

from capstan_operator.api import inference_service, training_job
from capstan_operator.api.common import API_VERSION
from capstan_operator.core import networkpolicy
from capstan_operator.core.model import ChildKind, Kind
from capstan_operator.core.serving import plan as serving
from capstan_operator.core.training import plan as training

SERVICES = ChildKind("v1", "Service", "services")
PODS = ChildKind("v1", "Pod", "pods")
JOBS = ChildKind("batch/v1", "Job", "jobs")
DEPLOYMENTS = ChildKind("apps/v1", "Deployment", "deployments")
NETWORK_POLICIES = ChildKind("networking.k8s.io/v1", networkpolicy.KIND, "networkpolicies")

KINDS: tuple[Kind, ...] = (
    Kind(
        api_version=API_VERSION,
        kind=training_job.KIND,
        plural=training_job.PLURAL,
        children=(NETWORK_POLICIES, SERVICES, JOBS, PODS),
        plan=networkpolicy.guarded(training.plan, networkpolicy.of_gang),
        references=training.references,
    ),
    Kind(
        api_version=API_VERSION,
        kind=inference_service.KIND,
        plural=inference_service.PLURAL,
        children=(NETWORK_POLICIES, SERVICES, DEPLOYMENTS, PODS),
        plan=networkpolicy.guarded(serving.plan, networkpolicy.of_server),
        references=serving.references,
    ),
)
