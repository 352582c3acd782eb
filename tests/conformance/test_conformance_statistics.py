"""Statistics: what they count, and what they look like."""

import numpy as np
import pytest

SECTIONS = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output"}
ONE = {"x": ("FP32", np.ones((1, 2), np.float32))}  # one row, which may be a batch of one


@pytest.fixture(autouse=True)
def offered(target):
    target.extension("statistics")
    target.needs("identity_fp32")


def _of(client, model="identity_fp32", version=""):
    (found,) = client.call("get_inference_statistics", model, version)["model_stats"]
    return found


def test_of_one_model(client):
    found = _of(client)
    assert (found["name"], found["version"]) == ("identity_fp32", "1")
    assert set(found["inference_stats"]) >= SECTIONS
    for section in SECTIONS:
        assert set(found["inference_stats"][section]) == {"count", "ns"}


def test_the_cache_has_its_counters(client):
    """perf_analyzer reads them also where there is no cache."""
    assert set(_of(client)["inference_stats"]) >= {"cache_hit", "cache_miss"}


def test_of_all_models(client):
    names = {found["name"] for found in client.call("get_inference_statistics")["model_stats"]}
    assert "identity_fp32" in names
    assert len(names) > 1


def test_of_one_version(client, target):
    assert _of(client, version="1")["version"] == "1"
    assert client.error("get_inference_statistics", "identity_fp32", "99")[0] in target.codes(404, 400)


def test_of_what_is_not_there(client, target):
    status, message = client.error("get_inference_statistics", "no_such_model")
    assert status in target.codes(404, 400), message
    assert "no_such_model" in message


def test_they_count(client):
    before = _of(client)
    for _ in range(3):
        client.infer("identity_fp32", ONE)
    after = _of(client)
    assert after["inference_count"] - before["inference_count"] == 3
    assert 1 <= after["execution_count"] - before["execution_count"] <= 3
    assert after["last_inference"] >= before["last_inference"]
    assert after["last_inference"] > 1.6e12, "milliseconds since 1970"
    for section in SECTIONS - {"fail"}:
        counted = after["inference_stats"][section]["count"] - before["inference_stats"][section]["count"]
        assert counted == 3, section
    spent = after["inference_stats"]["success"]["ns"] - before["inference_stats"]["success"]["ns"]
    assert 0 < spent < 60e9


def test_failures_are_counted(client, target):
    target.needs("sums")
    wide, narrow = (("INT32", np.ones((1, columns), np.int32)) for columns in (2, 3))  # cannot be added
    before = _of(client, "sums")
    assert client.error("infer", "sums", {"a": wide, "b": narrow})[0] in target.codes(500, 400)
    after = _of(client, "sums")
    for section, counted in (("fail", 1), ("success", 0)):
        sections = [found["inference_stats"][section] for found in (before, after)]
        assert sections[1]["count"] - sections[0]["count"] == counted, section
    assert after["inference_count"] == before["inference_count"]


def test_rows_are_counted_as_inferences(client, target):
    target.needs("batched")
    before = _of(client, "batched")
    client.infer("batched", {"x": ("FP32", np.zeros((5, 4), np.float32))})
    after = _of(client, "batched")
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 1
    succeeded = [found["inference_stats"]["success"]["count"] for found in (before, after)]
    assert succeeded[1] - succeeded[0] == 1


def test_batch_sizes_are_told_apart(client, target):
    target.needs("batched")
    client.infer("batched", {"x": ("FP32", np.zeros((7, 4), np.float32))})
    sizes = {item["batch_size"]: item for item in _of(client, "batched").get("batch_stats", [])}
    assert 7 in sizes
    counts = [sizes[7][part]["count"] for part in ("compute_input", "compute_infer", "compute_output")]
    assert counts[0] == counts[1] == counts[2] >= 1
