"""One TrainingJob: where it is, and what its replicas do."""

from grafana_foundation_sdk.builders import dashboard as builders

from dashboards.panels import GREEN, RED, YELLOW, board, lines, number, row, variable

IT = 'namespace="$namespace",name="$name"'
START, END = (
    f"capstan_trainingjob_start_time_seconds{{{IT}}}",
    f"capstan_trainingjob_completion_time_seconds{{{IT}}}",
)


def dashboard() -> builders.Dashboard:
    """The dashboard."""
    made = board(
        "training-job",
        "Training job",
        "One TrainingJob: its attempts, and its replicas' processor, memory and output.",
    )
    made.with_variable(
        variable("namespace", "Namespace", "label_values(capstan_trainingjob_status_phase, namespace)")
    )
    made.with_variable(
        variable(
            "name",
            "TrainingJob",
            'label_values(capstan_trainingjob_status_phase{namespace="$namespace"}, name)',
        )
    )
    for panel in (
        number("Phase", "Where the job is.", "short", f"capstan_trainingjob_status_phase{{{IT}}}", legend="{{phase}}"),
        number("Reason", "The reason of its condition Ready.", "short", f"capstan_trainingjob_status_reason{{{IT}}}", legend="{{reason}}"),
        number("Duration", "From the first pass over it to its end, or until now.", "s", f"({END} or time() * (1 + 0 * {START})) - {START}"),
        number("Attempt", "The attempt it is in; each change of the spec and each restart begins one.", "short", f"capstan_trainingjob_attempt{{{IT}}}"),
        number("Restarts", "Restarts after failures. How many of them there may be is in spec.failurePolicy.", "short", f"capstan_trainingjob_restarts_total{{{IT}}}", levels={0: GREEN, 1: YELLOW, 3: RED}),
        number("Last output", "How long ago a replica last wrote anything.", "s", f"time() - max(max_over_time(capstan_agent_last_output_timestamp_seconds{{{IT}}}[$__range]))"),
        row("Replicas"),
        lines("Replicas", "Replicas that run, and that are wanted.", "short", {"running": f"capstan_trainingjob_replicas_ready{{{IT}}}", "wanted": f"capstan_trainingjob_replicas_desired{{{IT}}}"}),
        lines("Processor", "Processor time used in each replica's container, in cores.", "short", {"{{pod}}": f"rate(capstan_agent_cpu_seconds_total{{{IT}}}[$__rate_interval])"}),
        lines("Memory", "Memory in use in each replica's container, and its limit.", "bytes", {"{{pod}}": f"capstan_agent_memory_working_set_bytes{{{IT}}}", "limit": f"max(capstan_agent_memory_limit_bytes{{{IT}}})"}),
        lines("Processes killed for want of memory", "What the kernel's out-of-memory killer ended in each replica's container.", "short", {"{{pod}}": f"capstan_agent_oom_kills_total{{{IT}}}"}),
        row("Output"),
        lines("Lines written", "Lines of output a second, by replica: a program that hangs writes none.", "wps", {"{{pod}}": f"rate(capstan_agent_output_lines_total{{{IT}}}[$__rate_interval])"}),
        lines("Since the last output", "Seconds since each replica last wrote anything.", "s", {"{{pod}}": f"time() - (capstan_agent_last_output_timestamp_seconds{{{IT}}} and capstan_agent_program_up{{{IT}}} == 1)"}),
    ):  # fmt: skip
        made.with_row(panel) if isinstance(panel, builders.Row) else made.with_panel(panel)
    return made
