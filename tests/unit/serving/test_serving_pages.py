"""What people and dashboards read: metrics, the start-up table, the termination message."""

import json

from capstan_serving import metrics, table, termination
from capstan_serving._native import BATCH_BOUNDS, DURATION_BOUNDS_US
from capstan_serving.catalog import Entry
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

MODEL = {
    "name": 'a"b\\c',
    "version": "3",
    "pending": 4,
    "rejected": 1,
    "cancelled": 2,
    "backend_failed": 3,
    "other_failed": 5,
    "inferences": 70,
    "executions": 20,
    "last_inference": 0,
    "success": (30, 6_000_000),
    "failed": (11, 0),
    "queue": (30, 1_000_000),
    "compute_input": (30, 2_000_000),
    "compute_infer": (30, 3_000_000),
    "compute_output": (30, 4_000_000),
    "cache_hit": (7, 8_000),
    "cache_miss": (9, 10_000),
    "request_times": ((30, *[0] * len(DURATION_BOUNDS_US)), 6_000_000),
    "queue_times": ((0, 30, *[0] * (len(DURATION_BOUNDS_US) - 1)), 1_000_000),
    "compute_times": ((20, *[0] * len(DURATION_BOUNDS_US)), 9_000_000),
    "by_rows": {2: (10, 1, 2, 3), 8: (10, 4, 5, 6)},
    "batch_rows": ((0, 10, 0, 0, 0, 10, *[0] * (len(BATCH_BOUNDS) - 5)), 70),
}


def test_the_metrics_parse_and_keep_tritons_names():
    page = metrics.exposition([MODEL], []).decode()
    samples = {
        (
            sample.name.removesuffix("_total"),
            sample.labels.get("reason"),
            sample.labels.get("le"),
        ): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels.get("model") == MODEL["name"]
    }
    assert samples["nv_inference_request_success", None, None] == 30
    assert samples["nv_inference_request_failure", "CANCELED", None] == 2
    assert samples["nv_inference_count", None, None] == 70
    assert samples["nv_inference_exec_count", None, None] == 20
    assert samples["nv_inference_pending_request_count", None, None] == 4
    assert samples["nv_inference_request_duration_us", None, None] == 6000
    assert samples["nv_inference_compute_infer_duration_us", None, None] == 3000
    histogram = "capstan_inference_request_duration_seconds"
    assert samples[f"{histogram}_bucket", None, "0.0001"] == 30
    assert samples[f"{histogram}_bucket", None, "+Inf"] == samples[f"{histogram}_count", None, None] == 30
    assert samples[f"{histogram}_sum", None, None] == 0.006
    assert samples["capstan_inference_queue_duration_seconds_bucket", None, "0.0001"] == 0
    assert samples["capstan_inference_queue_duration_seconds_bucket", None, "0.00025"] == 30
    assert samples["capstan_inference_compute_duration_seconds_count", None, None] == 20
    histogram = "capstan_inference_batch_size"
    sizes = [samples[f"{histogram}_bucket", None, le] for le in ("1", "2", "6", "8", "+Inf")]
    assert sizes == [0, 10, 10, 20, 20]
    assert samples[f"{histogram}_sum", None, None] == 70
    assert samples["nv_cache_num_hits_per_model", None, None] == 7
    assert samples["nv_cache_num_misses_per_model", None, None] == 9
    assert "nv_inference_count{" in page  # the parser adds `_total`, which Triton's names lack
    assert "process_resident_memory_bytes" in page


def test_the_table_shows_failures_with_their_reason():
    shown = table.render([("HTTP", "h:1")], [Entry("broken", 2, "UNAVAILABLE", "it is broken")])
    assert "HTTP  h:1" in shown
    assert shown.splitlines()[-1].split() == ["broken", "2", "UNAVAILABLE", "-", "it", "is", "broken"]
    assert "(none)" in table.render([], [])


@given(st.text(max_size=6000))
def test_a_termination_message_always_fits_and_parses(message):
    class Kept:
        def write_bytes(self, data):
            self.data = data

    kept = Kept()
    termination.write(kept, "ModelLoadFailed", message, 1)
    assert len(kept.data) <= termination.LIMIT
    assert message.startswith(json.loads(kept.data)["message"])


def test_a_termination_log_that_cannot_be_written_is_no_failure(tmp_path):
    termination.write(tmp_path, "ModelLoadFailed", "x", 1)
    termination.write(None, "ModelLoadFailed", "x", 1)
