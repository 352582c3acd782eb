"""Grafana's dashboards of Capstan, as code: `make generate` writes them, checked by Grafana's own types."""

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import fleet, inference_service, training_job

DASHBOARDS = {
    "fleet": fleet.dashboard,
    "training-job": training_job.dashboard,
    "inference-service": inference_service.dashboard,
}


def files() -> dict[str, str]:
    """Each dashboard's file name and what is in it."""
    encoder, result = JSONEncoder(sort_keys=True, indent=1), {}
    for name, made in DASHBOARDS.items():
        built = made().build()
        for number, panel in enumerate(built.panels or [], 1):
            panel.id_val = number
        result[f"capstan-{name}.json"] = encoder.encode(built) + "\n"
    return result
