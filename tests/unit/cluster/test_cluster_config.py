"""What can be configured, and what is refused before anything is touched."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from capstan_cluster.cli import main, parser
from capstan_cluster.config import Config
from capstan_cluster.errors import ClusterError


def test_the_default_is_not_podmans_network_and_the_api_server_is_where_people_look_for_it():
    config = Config()
    assert not config.pod_cidr.overlaps(IPv4Network("10.88.0.0/16"))
    assert config.ports["kube-apiserver"] == 6443


def test_flags_come_before_the_environment_and_that_before_the_default():
    environ = {"CAPSTAN_CLUSTER_NAME": "env", "CAPSTAN_CLUSTER_GPUS": "8"}
    config = Config.load(environ, name="flag", pod_cidr=None)
    assert (config.name, config.gpus, config.pod_cidr) == ("flag", 8, Config().pod_cidr)


def test_the_configuration_survives_being_written_down():
    config = Config(Path("/x/y"), "other", IPv4Network("10.9.0.0/20"), first_port=9000)
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"state_dir": "/"}, "absolute path"),
        ({"state_dir": "relative"}, "absolute path"),
        ({"name": "No Way"}, "lower-case"),
        ({"interface": "far-too-long-a-name"}, "network interface"),
        ({"pod_cidr": "10.43.128.0/17"}, "overlaps"),
        ({"pod_cidr": "10.42.0.0/28"}, "/24"),
        ({"pod_cidr": "not a network"}, "pod cidr"),
        ({"pod_cidr": "10.42.0.1/16"}, "host bits"),
        ({"first_port": "80"}, "--first-port"),
        ({"gpus": "many"}, "gpus"),
    ],
)
def test_what_cannot_work_is_refused(values, said):
    with pytest.raises(ClusterError, match=said):
        Config.load({}, **values)


def test_two_clusters_share_neither_sockets_nor_control_groups_nor_network_names():
    one, two = Config(), Config(Path("/elsewhere"), "two")
    assert one.run_dir != two.run_dir
    assert one.cgroup != two.cgroup
    assert one.pod_network != two.pod_network
    assert len(str(one.run_dir / "shims" / ("0" * 64))) < 108  # what a socket's path may be


def test_the_command_line_tells_an_error_without_a_traceback(capsys, monkeypatch):
    monkeypatch.setenv("CAPSTAN_CLUSTER_GPUS", "many")
    assert main(["kubeconfig"]) == 1
    assert "gpus" in capsys.readouterr().err


def test_every_option_of_the_cluster_is_a_flag():
    arguments = vars(parser().parse_args(["up"]))
    assert set(Config.__dataclass_fields__) <= set(arguments)
