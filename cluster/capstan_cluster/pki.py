"""The cluster's certificates, made with `cryptography`: who each component is, and whom it trusts.

etcd has an authority of its own, so that no certificate of the cluster opens the store behind the API server.
"""

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from capstan_cluster.config import Config

_LIFETIME = datetime.timedelta(days=3650)
_BACKDATE = datetime.timedelta(hours=1)  # for a clock that is set back

Authority = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate to be issued: its file's name, the user and groups it is, the names it serves under."""

    name: str
    user: str
    groups: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    addresses: tuple[IPv4Address, ...] = ()
    authority: str = "ca"


def identities(config: Config) -> tuple[Identity, ...]:
    """Every certificate the cluster needs."""
    loopback = IPv4Address("127.0.0.1")
    service = (
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    )
    return (
        Identity("admin", "capstan-admin", ("system:masters",)),
        Identity(
            "apiserver",
            "kube-apiserver",
            names=("localhost", *service),
            addresses=(loopback, config.kubernetes_service, config.address),
        ),
        Identity("apiserver-kubelet", "kube-apiserver-kubelet-client", ("system:masters",)),
        Identity("kube-controller-manager", "system:kube-controller-manager"),
        Identity("kube-scheduler", "system:kube-scheduler"),
        Identity("kube-proxy", "system:kube-proxy"),
        Identity("coredns", "capstan:coredns"),
        Identity("local-path-provisioner", "capstan:local-path-provisioner"),
        Identity(
            "kubelet",
            f"system:node:{config.node}",
            ("system:nodes",),
            names=(config.node,),
            addresses=(config.address,),
        ),
        Identity("etcd", "etcd", names=("localhost",), addresses=(loopback,), authority="etcd-ca"),
        Identity("apiserver-etcd", "kube-apiserver-etcd-client", authority="etcd-ca"),
    )


def issue(config: Config) -> None:
    """Make every key and certificate that is not there yet; a half-made pair is made again."""
    folder = config.pki("")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authorities = {name: _authority(folder, name) for name in ("ca", "etcd-ca")}
    for identity in identities(config):
        certificate = folder / f"{identity.name}.crt"
        if certificate.exists():
            continue
        key = ec.generate_private_key(ec.SECP256R1())
        _write(folder / f"{identity.name}.key", _key_pem(key))
        issued = _leaf(identity, key, authorities[identity.authority])
        _write(certificate, issued.public_bytes(serialization.Encoding.PEM))
    if not (folder / "sa.pub").exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write(folder / "sa.key", _key_pem(key))
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        _write(folder / "sa.pub", public)


def _authority(folder: Path, name: str) -> Authority:
    certificate, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    if certificate.exists():
        loaded = serialization.load_pem_private_key(key_file.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)  # noqa: S101  we wrote it
        return x509.load_pem_x509_certificate(certificate.read_bytes()), loaded
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"capstan-{name}", ())
    made = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(key_file, _key_pem(key))
    _write(certificate, made.public_bytes(serialization.Encoding.PEM))
    return made, key


def _leaf(identity: Identity, key: ec.EllipticCurvePrivateKey, authority: Authority) -> x509.Certificate:
    ca, ca_key = authority
    builder = (
        _builder(_subject(identity.user, identity.groups), ca.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in identity.names]
    names += [x509.IPAddress(address) for address in identity.addresses]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(user: str, groups: Iterable[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    """Write a file that only we may read, at once or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    new.replace(path)
