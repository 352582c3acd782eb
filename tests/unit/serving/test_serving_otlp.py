"""OpenTelemetry's environment variables, as the server reads them."""

import pytest
from capstan_serving import otlp

BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def test_nothing_is_traced_unless_asked_for():
    assert otlp.collector(None, {}) is None
    assert otlp.collector(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": " "}) is None
    assert otlp.collector(None, BASE | {"OTEL_SDK_DISABLED": "True"}) is None
    assert otlp.collector(None, BASE | {"OTEL_TRACES_EXPORTER": "none"}) is None


def test_the_defaults_are_opentelemetrys():
    found = otlp.collector(None, BASE)
    assert found.url == "http://collector:4318/v1/traces"
    assert (found.parent_based, found.ratio) == (True, 1.0)
    assert (found.queue_size, found.batch_size, found.delay, found.timeout) == (2048, 512, 5.0, 10.0)
    assert dict(found.resource)["service.name"] == "capstan-serving"
    assert not found.headers
    assert not found.compressed


@pytest.mark.parametrize(
    ("flag", "environment", "url"),
    [
        ("http://a:1/", BASE, "http://a:1/v1/traces"),
        ("http://a:1", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/own"}, "http://a:1/v1/traces"),
        (None, BASE | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/own"}, "http://b/own"),
        ("http://a:1", {"OTEL_SDK_DISABLED": "true"}, "http://a:1/v1/traces"),
        ("", BASE, "http://collector:4318/v1/traces"),
    ],
)
def test_the_flag_wins_and_what_is_for_traces_wins(flag, environment, url):
    assert otlp.collector(flag, environment).url == url


@pytest.mark.parametrize(
    ("name", "argument", "wanted"),
    [
        ("always_on", "", (False, 1.0)),
        ("always_off", "0.5", (False, 0.0)),
        ("traceidratio", "0.25", (False, 0.25)),
        ("parentbased_always_off", "", (True, 0.0)),
        ("parentbased_traceidratio", "", (True, 1.0)),
    ],
)
def test_samplers(name, argument, wanted):
    variables = {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}
    found = otlp.collector(None, BASE | variables)
    assert (found.parent_based, found.ratio) == wanted


def test_what_is_for_traces_alone_comes_before_what_is_for_all():
    found = otlp.collector(
        None,
        BASE
        | {
            "OTEL_EXPORTER_OTLP_HEADERS": "a=1",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "b=2, c=%2C",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1500",
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip",
            "OTEL_BSP_MAX_QUEUE_SIZE": "5",
        },
    )
    assert found.headers == {"b": "2", "c": ","}
    assert (found.timeout, found.compressed, found.queue_size) == (1.5, True, 512)


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:99999"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "file:///etc/passwd"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "secret"},
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "10s"},
        {"OTEL_BSP_SCHEDULE_DELAY": "0"},
        {"OTEL_TRACES_SAMPLER": "sometimes"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
        {"OTEL_RESOURCE_ATTRIBUTES": "a"},
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere.pem",
        },
    ],
)
def test_what_is_wrong_is_named(variables):
    with pytest.raises(otlp.Misconfigured) as error:
        otlp.collector(None, BASE | variables)
    named = list(variables)[-1]
    assert named in str(error.value) or "is no address" in str(error.value)
