"""The fleet: what there is in all namespaces, how it is, and how the operator keeps up."""

from grafana_foundation_sdk.builders import dashboard as builders

from dashboards.panels import GREEN, RED, YELLOW, board, lines, listing, number, row, variable

HERE = 'namespace=~"$namespace"'


def _counted(kind: str, phases: str) -> str:
    return f'sum(capstan_operator_resources{{{HERE},kind="{kind}",phase=~"{phases}"}}) or vector(0)'


def _reasons(kind: str) -> str:
    phase = f"capstan_{kind}_status_phase{{{HERE}}}"
    return f"{phase} * on (namespace, name) group_right (phase) capstan_{kind}_status_reason{{{HERE}}}"


def dashboard() -> builders.Dashboard:
    """The dashboard."""
    made = board("fleet", "Fleet", "Every TrainingJob and InferenceService, and the operator that runs them.")
    made.with_variable(
        variable("namespace", "Namespace", "label_values(capstan_operator_resources, namespace)", every=True)
    )
    waiting, ready = "Accepted|Queued|Pending|Initializing|Restarting", "Ready|Updating"
    columns = {"namespace": "Namespace", "name": "Name", "phase": "Phase", "reason": "Reason"}
    for panel in (
        row("Resources"),
        number("Jobs running", "TrainingJobs whose replicas have all started.", "short", _counted("TrainingJob", "Running")),
        number("Jobs waiting", "TrainingJobs that are to run and do not yet.", "short", _counted("TrainingJob", waiting), levels={0: GREEN, 5: YELLOW}),
        number("Jobs failed", "TrainingJobs that failed and are still there.", "short", _counted("TrainingJob", "Failed"), levels={0: GREEN, 1: RED}),
        number("Services answering", "InferenceServices that a revision answers for.", "short", _counted("InferenceService", ready)),
        number("Services in trouble", "InferenceServices without enough ready pods.", "short", _counted("InferenceService", "Accepted|Pending|Initializing|Degraded"), levels={0: GREEN, 1: YELLOW}),
        number("Operator leads", "How many operators hold the Lease: one, in health.", "short", "sum(capstan_operator_leader)", levels={0: RED, 1: GREEN}),
        lines("TrainingJobs by phase", "How many TrainingJobs are in each phase.", "short", {"{{phase}}": f'sum by (phase) (capstan_operator_resources{{{HERE},kind="TrainingJob"}})'}, stacked=True),
        lines("InferenceServices by phase", "How many InferenceServices are in each phase.", "short", {"{{phase}}": f'sum by (phase) (capstan_operator_resources{{{HERE},kind="InferenceService"}})'}, stacked=True),
        listing("TrainingJobs", "Each TrainingJob with its phase and the reason of its condition Ready.", _reasons("trainingjob"), columns),
        listing("InferenceServices", "Each InferenceService with its phase and the reason of its condition Ready.", _reasons("inferenceservice"), columns),
        row("Requests"),
        lines("Requests", "Successful inference requests a second, by service.", "reqps", {"{{namespace}}/{{name}}": f"sum by (namespace, name) (rate(nv_inference_request_success{{{HERE}}}[$__rate_interval]))"}, span=8),
        lines("Latency, 99th percentile", "99 of 100 requests take at most so long, from queueing to answer.", "s", {"{{namespace}}/{{name}}": f"histogram_quantile(0.99, sum by (namespace, name, le) (rate(capstan_inference_request_duration_seconds_bucket{{{HERE}}}[$__rate_interval])))"}, span=8),
        lines("Failed requests", "Inference requests that failed, a second, by service.", "reqps", {"{{namespace}}/{{name}}": f"sum by (namespace, name) (rate(nv_inference_request_failure{{{HERE}}}[$__rate_interval]))"}, span=8),
        row("Operator"),
        lines("Passes", "Passes over resources a second, by what came of them.", "ops", {"{{outcome}}": "sum by (outcome) (rate(capstan_operator_reconciles_total[$__rate_interval]))"}, span=8, stacked=True),
        lines("Duration of a pass", "How long passes take that ended in this interval.", "s", {"median": "histogram_quantile(0.5, sum by (le) (rate(capstan_operator_reconcile_duration_seconds_bucket[$__rate_interval])))", "99th percentile": "histogram_quantile(0.99, sum by (le) (rate(capstan_operator_reconcile_duration_seconds_bucket[$__rate_interval])))"}, span=8),
        lines("Queue", "Resources that wait for a worker.", "short", {"waiting": "sum(capstan_operator_queue_depth)"}, span=8),
        lines("API requests", "Requests to the API server a second, by verb and answer.", "reqps", {"{{verb}} {{code}}": "sum by (verb, code) (rate(capstan_operator_api_requests_total[$__rate_interval]))"}, span=8, stacked=True),
        lines("Processor", "Processor time the operator uses, in cores.", "short", {"{{pod}}": 'rate(process_cpu_seconds_total[$__rate_interval]) and on (namespace, pod) capstan_operator_info'}, span=8),
        lines("Memory", "Memory the operator has resident.", "bytes", {"{{pod}}": 'process_resident_memory_bytes and on (namespace, pod) capstan_operator_info'}, span=8),
    ):  # fmt: skip
        made.with_row(panel) if isinstance(panel, builders.Row) else made.with_panel(panel)
    return made
