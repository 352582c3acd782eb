"""The certificate under which reports are taken: made once, kept in a Secret of the operator's own namespace.

Pods are told it when they are made and keep it for as long as they train, so it outlives every operator;
whoever of several comes first makes it. To have a new one, delete the Secret and restart the operators:
what trains then goes on without reporting until its next attempt.
"""

from __future__ import annotations

import base64
import os
import ssl
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from capstan_operator.core import get
from capstan_operator.core.model import Manifest
from capstan_operator.shell.client import Api
from capstan_operator.shell.errors import Rejected, Transient
from capstan_operator.shell.keys import Resource

SECRETS = Resource("v1", "Secret", "secrets")
_LIFE = timedelta(days=3650)


class Certificate(NamedTuple):
    """A self-signed certificate, which is its own authority, and its key; both PEM."""

    certificate: str
    key: str

    def context(self) -> ssl.SSLContext:
        """TLS with it. OpenSSL reads keys from files only: from one that is nowhere but in memory."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with os.fdopen(os.memfd_create("reports"), "w") as file:
            file.write(self.key + self.certificate)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context


def made(host: str, now: datetime) -> Certificate:
    """A new one for a host."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "capstan-operator")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificate(certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode())


async def kept(api: Api, namespace: str, name: str, host: str, now: datetime) -> Certificate:
    """The Secret's, made if there is none. Raises Transient or Rejected, as any request does."""
    found = await api.get(SECRETS, namespace, name)
    if found is None:
        new = made(host, now)
        try:
            found = await api.create(SECRETS, _secret(namespace, name, new))
        except Rejected as error:
            if error.reason != "AlreadyExists":
                raise
            found = await api.get(SECRETS, namespace, name)
    data = get.mapping(found, "data")
    try:
        parts = [base64.b64decode(data[field], validate=True).decode() for field in ("tls.crt", "tls.key")]
    except (KeyError, ValueError, TypeError) as error:
        raise Transient(f"the Secret {namespace}/{name} holds no certificate: delete it") from error
    return Certificate(*parts)


def _secret(namespace: str, name: str, new: Certificate) -> Manifest:
    return {
        "apiVersion": SECRETS.api_version,
        "kind": SECRETS.kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/name": "capstan", "app.kubernetes.io/part-of": "capstan"},
        },
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": base64.b64encode(new.certificate.encode()).decode(),
            "tls.key": base64.b64encode(new.key.encode()).decode(),
        },
    }
