"""Where the API server is and who we are to it, found once for kopf and for our own client alike."""

from __future__ import annotations

from pathlib import Path

import kopf
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config
from kubernetes.aio.config.incluster_config import SERVICE_TOKEN_FILENAME


async def configuration(kubeconfig: str | None = None, context: str | None = None) -> Configuration:
    """Return the client's configuration: the kubeconfig if one is named, else the pod's, else the user's.

    The pod's token is read again every minute, as it is rotated. Raises the client's ConfigException.
    """
    result = Configuration()
    if kubeconfig is None and context is None and _in_a_pod():
        load_incluster_config(client_configuration=result)
    else:
        await load_kube_config(
            config_file=kubeconfig, context=context, client_configuration=result, persist_config=False
        )
    return result


async def connection(config: Configuration) -> kopf.ConnectionInfo:
    """Return the same for kopf."""
    header = await config.get_api_key_with_prefix("BearerToken", alias="authorization")
    scheme, _, token = (header or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=config.host,
        ca_path=config.ssl_ca_cert,
        ca_data=config.ca_cert_data,
        insecure=not config.verify_ssl,
        username=config.username or None,
        password=config.password or None,
        scheme=scheme.capitalize() or None,
        token=token or None,
        certificate_path=config.cert_file,
        private_key_path=config.key_file,
        proxy_url=config.proxy,
        trust_env=True,
    )


def _in_a_pod() -> bool:
    return Path(SERVICE_TOKEN_FILENAME).exists()
