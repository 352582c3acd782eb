"""One InferenceService: what its clients get, and where the time goes."""

from grafana_foundation_sdk.builders import dashboard as builders

from dashboards.panels import GREEN, RED, YELLOW, board, lines, number, row, variable

IT = 'namespace="$namespace",name="$name"'
ANSWERED = f"sum(rate(nv_inference_request_success{{{IT}}}[$__rate_interval]))"
FAILED = f'sum(rate(nv_inference_request_failure{{{IT},reason!="CANCELED"}}[$__rate_interval]))'
BUCKETS = f"sum by (le) (rate(capstan_inference_request_duration_seconds_bucket{{{IT}}}[$__rate_interval]))"


def _mean(phase: str) -> str:
    return f"sum(rate(nv_inference_{phase}_duration_us{{{IT}}}[$__rate_interval])) / {ANSWERED} / 1e6"


def dashboard() -> builders.Dashboard:
    """The dashboard."""
    made = board(
        "inference-service", "Inference service", "One InferenceService: requests, latency, batches, pods."
    )
    made.with_variable(
        variable("namespace", "Namespace", "label_values(capstan_inferenceservice_status_phase, namespace)")
    )
    made.with_variable(
        variable(
            "name",
            "InferenceService",
            'label_values(capstan_inferenceservice_status_phase{namespace="$namespace"}, name)',
        )
    )
    for panel in (
        number("Phase", "Where the service is.", "short", f"capstan_inferenceservice_status_phase{{{IT}}}", legend="{{phase}}"),
        number("Revision", "The revision in use: the end of its Deployment's name.", "short", f'capstan_inferenceservice_revision_info{{{IT},role="stable"}}', legend="{{revision}}"),
        number("Pods ready", "Pods of the revision in use that are ready to answer.", "short", f"capstan_inferenceservice_replicas_ready{{{IT}}}", levels={0: RED, 1: GREEN}),
        number("Requests", "Successful requests a second.", "reqps", ANSWERED),
        number("Failures", "The share of requests that fail.", "percentunit", f"{FAILED} / ({ANSWERED} + {FAILED}) >= 0 or vector(0)", levels={0: GREEN, 0.01: YELLOW, 0.05: RED}),
        number("Answered", "Requests answered since its pods were started.", "short", f"sum(nv_inference_request_success{{{IT}}})"),
        row("Requests"),
        lines("Requests", "Requests a second: answered, and failed by reason.", "reqps", {"answered": ANSWERED, "{{reason}}": f"sum by (reason) (rate(nv_inference_request_failure{{{IT}}}[$__rate_interval]))"}),
        lines("Latency", "From queueing to answer, inside the server.", "s", {"median": f"histogram_quantile(0.5, {BUCKETS})", "90th percentile": f"histogram_quantile(0.9, {BUCKETS})", "99th percentile": f"histogram_quantile(0.99, {BUCKETS})"}),
        lines("Where the time goes", "The mean time of a request in each phase.", "s", {"queue": _mean("queue"), "input": _mean("compute_input"), "model": _mean("compute_infer"), "output": _mean("compute_output")}, stacked=True),
        lines("Batch size", "Rows for each execution of the model.", "short", {"rows": f"sum(rate(nv_inference_count{{{IT}}}[$__rate_interval])) / sum(rate(nv_inference_exec_count{{{IT}}}[$__rate_interval]))"}),
        lines("Waiting requests", "Requests that wait for an execution, by pod.", "short", {"{{pod}}": f"sum by (pod) (nv_inference_pending_request_count{{{IT}}})"}, levels={100: RED}),
        lines("Pods", "Pods that are ready, and that are wanted.", "short", {"ready": f"capstan_inferenceservice_replicas_ready{{{IT}}}", "wanted": f"capstan_inferenceservice_replicas_desired{{{IT}}}"}),
        row("Pods"),
        lines("Processor", "Processor time of each server, in cores.", "short", {"{{pod}}": f"rate(process_cpu_seconds_total{{{IT}}}[$__rate_interval])"}, span=8),
        lines("Memory", "Memory each server has resident.", "bytes", {"{{pod}}": f"process_resident_memory_bytes{{{IT}}}"}, span=8),
        lines("Loading the model", "How long each pod took to load its model.", "s", {"{{pod}}": f"max by (pod) (nv_model_load_duration_secs{{{IT}}})"}, span=8),
    ):  # fmt: skip
        made.with_row(panel) if isinstance(panel, builders.Row) else made.with_panel(panel)
    return made
