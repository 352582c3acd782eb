"""Configuration as the components read it, certificates as they check them."""

import io
import json
import tarfile
import tomllib
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml
from capstan_cluster import helper_image, pki, render
from capstan_cluster.config import Config
from cryptography import x509
from cryptography.x509.oid import NameOID


def test_containerds_configuration_is_toml_and_keeps_to_our_folders():
    config = Config()
    loaded = tomllib.loads(render.containerd_config(config, "/cache/runc", "localhost/helper:1"))
    plugins = loaded["plugins"]
    assert loaded["root"] == "/var/lib/capstan-cluster/containerd"
    assert plugins["io.containerd.server.v1.grpc"]["address"] == str(config.containerd_socket)
    assert plugins["io.containerd.cri.v1.images"]["pinned_images"]["sandbox"] == "localhost/helper:1"
    runtime = plugins["io.containerd.cri.v1.runtime"]
    assert runtime["restrict_oom_score_adj"] is True
    assert runtime["containerd"]["runtimes"]["runc"]["options"]["BinaryName"] == "/cache/runc"


def test_the_networks_and_ports_asked_for_reach_every_file():
    config = Config(
        pod_cidr=IPv4Network("10.60.0.0/16"), service_cidr=IPv4Network("10.61.0.0/16"), first_port=7000
    )
    kubelet = yaml.safe_load(render.kubelet_config(config))
    assert kubelet["clusterDNS"] == ["10.60.0.1"]
    assert kubelet["port"] == config.ports["kubelet"]
    ranges = json.loads(render.cni_config(config))["plugins"][0]["ipam"]["ranges"]
    assert ranges == [[{"subnet": "10.60.0.0/16", "gateway": "10.60.0.1"}]]
    assert "bind 10.60.0.1" in render.corefile(config)
    (cluster,) = yaml.safe_load(render.kubeconfig(config, "admin", b"a", b"b", b"c"))["clusters"]
    assert cluster["cluster"]["server"] == "https://127.0.0.1:7003"


def test_the_api_server_notes_what_capstan_asks_and_nothing_else():
    ours, others = yaml.safe_load(render.audit_policy())["rules"]
    assert ours == {"level": "Metadata", "userGroups": ["system:serviceaccounts:capstan-system"]}
    assert others == {"level": "None"}


def test_the_storage_class_is_the_default_and_waits_for_the_pod():
    (storage,) = [item for item in render.manifests() if item["kind"] == "StorageClass"]
    assert storage["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
    assert storage["volumeBindingMode"] == "WaitForFirstConsumer"


def test_every_binding_names_a_role_that_is_there_and_a_user_with_a_certificate():
    roles, users = set(), {identity.user for identity in pki.identities(Config())}
    for item in render.manifests():
        where = item["metadata"].get("namespace")
        if item["kind"] in {"Role", "ClusterRole"}:
            roles.add((item["kind"], item["metadata"]["name"], where))
    for item in render.manifests():
        if item["kind"].endswith("Binding"):
            role = item["roleRef"]
            assert (role["kind"], role["name"], item["metadata"].get("namespace")) in roles
            assert {subject["name"] for subject in item["subjects"]} <= users


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    config = Config(state_dir=tmp_path_factory.mktemp("state"))
    pki.issue(config)
    return config


def certificate(config, name):
    return x509.load_pem_x509_certificate(config.pki(f"{name}.crt").read_bytes())


def test_certificates_are_signed_by_their_authority_and_readable_by_us_alone(issued):
    for identity in pki.identities(issued):
        certificate(issued, identity.name).verify_directly_issued_by(certificate(issued, identity.authority))
        assert issued.pki(f"{identity.name}.key").stat().st_mode & 0o077 == 0


def test_the_api_server_is_reached_under_all_its_names(issued):
    names = (
        certificate(issued, "apiserver").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"127.0.0.1", "10.42.0.1", "10.43.0.1"}


def test_the_kubelet_is_the_node_it_says_it_is(issued):
    subject = certificate(issued, "kubelet").subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == f"system:node:{issued.node}"
    assert subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:nodes"


def test_certificates_that_are_there_are_kept_and_missing_ones_made(issued):
    before = issued.pki("admin.crt").read_bytes()
    issued.pki("kube-proxy.crt").unlink()
    pki.issue(issued)
    assert issued.pki("admin.crt").read_bytes() == before
    certificate(issued, "kube-proxy").verify_directly_issued_by(certificate(issued, "ca"))


def test_the_helper_image_is_an_oci_archive_that_is_the_same_each_time(tmp_path):
    name = helper_image.reference("abc")
    archive = helper_image.archive(b"program", name)
    assert archive == helper_image.archive(b"program", name)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (entry,) = json.load(tar.extractfile("index.json"))["manifests"]
        assert entry["annotations"]["io.containerd.image.name"] == "localhost/capstan-node-helper:abc"
        manifest = json.load(tar.extractfile(f"blobs/sha256/{entry['digest'][7:]}"))
        layer = tar.extractfile(f"blobs/sha256/{manifest['layers'][0]['digest'][7:]}").read()
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert {member.name: member.mode for member in tar} == {"pause": 0o755, "volume": 0o755}
    helper_image.write(Path(__file__), name, tmp_path / "x.tar")
    assert tarfile.is_tarfile(tmp_path / "x.tar")
