"""The generate routes: inputs and outputs as plain JSON members, once or as server-sent events."""

import json

import pytest

from tests.conformance.target import not_offered

PATH = "/v2/models/sums/generate"


@pytest.fixture(autouse=True)
def offered(target):
    target.needs("sums")
    status, _ = target.json("POST", PATH, {"a": 1, "b": 2})
    if status in (404, 501):
        not_offered("generate")


def test_scalars(target):
    status, answer = target.json("POST", PATH, {"a": 5, "b": 3})
    assert status == 200, answer
    assert (answer["sum"], answer["difference"]) == (8, 2)
    assert (answer["model_name"], answer["model_version"]) == ("sums", "1")


def test_arrays(target):
    status, answer = target.json("POST", PATH, {"a": [5, 1], "b": [3, 1]})
    assert status == 200, answer
    assert (answer["sum"], answer["difference"]) == ([8, 2], [2, 0])


def test_text(target):
    target.needs("identity_bytes")
    status, answer = target.json("POST", "/v2/models/identity_bytes/generate", {"x": "Grüße"})
    assert status == 200, answer
    assert answer["y"] == "Grüße"


def test_the_id_comes_back(target):
    _, answer = target.json("POST", PATH, {"id": "r-1", "a": 5, "b": 3})
    assert answer["id"] == "r-1"


def test_other_members_are_parameters(target):
    status, answer = target.json("POST", PATH, {"a": 5, "b": 3, "temperature": 0.5, "stream": False})
    assert status == 200, answer
    assert answer["sum"] == 8


@pytest.mark.parametrize("body", [{"a": 5}, {"a": "x", "b": 3}, []])
def test_bad_requests(target, body):
    status, answer = target.json("POST", PATH, body)
    assert status in target.refused, answer
    assert answer["error"]


def test_an_unknown_model(target):
    status, answer = target.json("POST", "/v2/models/no_such_model/generate", {"a": 1})
    assert status in target.codes(404, 400), answer


def test_as_events(target):
    status, headers, body = target.request(
        "POST", PATH + "_stream", json.dumps({"a": 5, "b": 3}).encode(), {"Content-Type": "application/json"}
    )
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream"), body
    events = [event for event in body.decode().split("\n\n") if event]
    assert len(events) == 1
    assert events[0].startswith("data: ")
    answer = json.loads(events[0].removeprefix("data: "))
    assert (answer["sum"], answer["difference"]) == (8, 2)


def test_a_bad_request_for_events(target):
    status, _, body = target.request("POST", PATH + "_stream", b'{"a": 5}')
    assert status in target.refused, body
    assert json.loads(body.decode().removeprefix("data: "))["error"]
