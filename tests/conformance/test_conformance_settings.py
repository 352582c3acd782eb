"""Logging and tracing: what can be read and changed, and that no file can be named."""

import pytest


@pytest.fixture
def logging(target):
    target.extension("logging")


@pytest.fixture
def trace(target):
    target.extension("trace")


def _logging(client, **settings):
    answer = client.call("update_log_settings", settings) if settings else client.call("get_log_settings")
    if client.is_http:
        return answer
    return {name: next(iter(value.values())) for name, value in answer["settings"].items()}


@pytest.mark.usefixtures("logging")
def test_log_settings(client):
    settings = _logging(client)
    assert set(settings) >= {"log_info", "log_warning", "log_error", "log_verbose_level", "log_format"}
    assert settings["log_info"] is True


@pytest.mark.usefixtures("logging")
def test_log_settings_can_be_changed(client):
    try:
        assert _logging(client, log_info=False)["log_info"] is False
        assert _logging(client)["log_info"] is False
        assert _logging(client, log_verbose_level=1)["log_verbose_level"] == 1
    finally:
        _logging(client, log_info=True, log_verbose_level=0)
    assert _logging(client)["log_info"] is True


@pytest.mark.usefixtures("logging")
def test_no_log_file_can_be_named(client, target):
    status, message = client.error("update_log_settings", {"log_file": "/tmp/evil"})
    assert status in target.codes(501, 400), message
    assert _logging(client).get("log_file", "") != "/tmp/evil"


@pytest.mark.usefixtures("logging")
@pytest.mark.parametrize("settings", [{"log_info": "yes"}, {"log_format": "nothing"}])
def test_bad_log_settings(target, settings):
    status, answer = target.json("POST", "/v2/logging", settings)
    assert status in target.codes(400, 500, 503), answer


def _trace(client, settings=None, model=None):
    if settings is None:
        answer = client.call("get_trace_settings", model_name=model)
    else:
        answer = client.call("update_trace_settings", model_name=model, settings=settings)
    if client.is_http:
        return answer
    return {name: value.get("value", []) for name, value in answer["settings"].items()}


@pytest.mark.usefixtures("trace")
@pytest.mark.parametrize("model", [None, "identity_fp32"])
def test_trace_settings(client, target, model):
    target.needs("identity_fp32")
    assert {"trace_level", "trace_rate", "trace_count"} <= set(_trace(client, model=model))


@pytest.mark.usefixtures("trace")
def test_trace_settings_can_be_changed_and_reset(client):
    before = _trace(client)["trace_rate"]
    try:
        changed = _trace(client, {"trace_rate": "7"})["trace_rate"]
        assert str(changed[0] if isinstance(changed, list) else changed) == "7"
    finally:
        _trace(client, {"trace_rate": None})
    assert _trace(client)["trace_rate"] == before


@pytest.mark.usefixtures("trace")
def test_a_bad_trace_setting(client, target):
    status, message = client.error("update_trace_settings", settings={"trace_rate": "many"})
    assert status in target.refused, message


@pytest.mark.usefixtures("trace")
def test_no_trace_file_can_be_named(client, target):
    status, message = client.error("update_trace_settings", settings={"trace_file": "/tmp/evil"})
    assert status in target.codes(501, 400), message


@pytest.mark.usefixtures("trace")
def test_trace_settings_of_what_is_not_there(client, target):
    status, message = client.error("get_trace_settings", model_name="no_such_model")
    assert status in target.codes(404, 400), message
