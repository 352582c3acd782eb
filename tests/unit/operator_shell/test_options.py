"""Flags and environment variables are the same options."""

import pytest
from capstan_operator.shell.options import Options, options, parser


def parsed(*arguments: str, **environment: str) -> Options:
    return options(parser(environment).parse_args(["run", *arguments]))


def test_defaults() -> None:
    it = parsed()
    assert it.namespaces == ()
    assert (it.metrics_port, it.workers, it.log_level, it.log_format) == (8080, 8, "info", "json")
    assert it.agent_image.startswith("ghcr.io/capstan-dev/agent:")
    assert it.kubeconfig is None
    assert it.fetch_allow == ("pvc", "s3", "gs", "az", "https", "hf")
    assert it.network_policies


def test_the_environment_is_heard_and_a_flag_wins() -> None:
    it = parsed("--workers", "3", CAPSTAN_OPERATOR_WORKERS="5", CAPSTAN_OPERATOR_NAMESPACES="b, a,,a")
    assert it.workers == 3
    assert it.namespaces == ("a", "b")
    assert parsed(CAPSTAN_OPERATOR_AGENT_IMAGE="").agent_image.startswith("ghcr.io/"), "empty is unset"


def test_what_may_be_fetched_is_a_list() -> None:
    it = parsed("--fetch-allow", "s3, https://*.example.com:8443,,s3", "--network-policies", "false")
    assert it.fetch_allow == ("s3", "https://*.example.com:8443")
    assert not it.network_policies


def test_who_is_told_nothing_is_alone() -> None:
    assert not parsed().leader_elect
    assert parsed("--leader-elect", "true").leader_elect
    assert parsed(CAPSTAN_OPERATOR_LEASE_NAMESPACE="n").lease_namespace == "n"
    assert parsed("--lease-duration", "30").lease_duration == 30


@pytest.mark.parametrize(
    "bad",
    [
        ("--workers", "0"),
        ("--metrics-port", "70000"),
        ("--log-format", "xml"),
        ("--workers", "many"),
        ("--fetch-allow", "s3,https://user@host"),
        ("--network-policies", "maybe"),
        ("--nope",),
        ("--lease-duration", "2"),
    ],
)
def test_nonsense_is_refused(bad: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(*bad)
    assert caught.value.code == 2
    assert bad[0] in capsys.readouterr().err


def test_nonsense_in_the_environment_is_refused_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(CAPSTAN_OPERATOR_LOG_FORMAT="xml")
    assert "--log-format: must be one of json, text, not 'xml'" in capsys.readouterr().err
