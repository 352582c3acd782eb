"""Where models and data come from: an address, and the Secret it is read with."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from capstan_operator.api.base import Model, Rule, Text
from capstan_operator.api.common import CLAIM_URI_PATTERN, DNS_LABEL, URI_PATH_PATTERN, Digest

CLAIM_SCHEME = "pvc://"

# What may be in an https URL. Not $ and parentheses: the kubelet expands $(NAME) in a container's arguments.
_CHARACTER = r"[A-Za-z0-9_~@=+,:;!&*%-]"
_HTTPS = (
    r"https://[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]{1,5})?"
    rf"(/({_CHARACTER}(\.|{_CHARACTER})*|\.{_CHARACTER}(\.|{_CHARACTER})*)?)+"
    rf"(\?(\.?({_CHARACTER}|[/?]))*)?"
)
_BUCKET = rf"(s3|gs|az)://[a-z0-9]([-a-z0-9._]*[a-z0-9])?{URI_PATH_PATTERN}"
_HUB = rf"hf://[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?{URI_PATH_PATTERN}"

SourceURI = Annotated[
    str,
    Text(
        f"({CLAIM_URI_PATTERN}|{_BUCKET}|{_HUB}|{_HTTPS})",
        "this uri is not supported: write pvc://<claim>/<path>, s3://<bucket>/<path>, gs://<bucket>/<path>,"
        " az://<container>/<path>, hf://<organisation>/<name>[@<revision>][/<path>] or"
        " https://<host>/<path>, without spaces and without .. in it. User and password do not belong in a"
        " URL: put them into a Secret and name that in credentials",
        2048,
    ),
]

SOURCES = (
    "pvc://<claim>/<path>, on a volume of the same namespace; s3://<bucket>/<path>; gs://<bucket>/<path>;"
    " az://<container>/<path>; hf://<organisation>/<name>[@<revision>][/<path>]; or https://<host>/<path>."
)


class SecretReference(Model):
    """A Secret of the same namespace."""

    name: Annotated[
        str,
        Text(
            "[a-z0-9]([-a-z0-9.]*[a-z0-9])?",
            "must be the name of a Secret: lower-case letters, digits, dashes and dots, at most 253",
            253,
        ),
    ] = Field(description="The Secret's name.")


class Credentials(Model):
    """What opens a source."""

    secret_ref: SecretReference = Field(
        description=(
            "A Secret whose keys become environment variables of the container that fetches, and of no other:"
            " AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, HF_TOKEN and the like; see the guide."
        )
    )


CREDENTIALS = (
    "What opens the source. None: it is open to all, or to the pods' service account (workload identity)."
)


def _visible(path: str) -> bool:
    """Whether a volume at this path hides nothing that the pod is made of."""
    return re.match("/(dev|proc|sys|run|var/run)(/|$)", path) is None and path != "/var"


class DataSource(Model):
    """Something the program reads."""

    name: Annotated[
        str,
        Text(
            DNS_LABEL,
            "must be lower-case letters, digits and dashes, beginning with a letter, at most 40",
            40,
        ),
    ] = Field(
        description=(
            "What it is called: the container that fetches it is fetch-<name>, and CAPSTAN_DATA_<NAME> (in"
            " capitals, with _ for -) tells the program where it is."
        )
    )
    uri: SourceURI = Field(
        description=(
            f"Where it is: {SOURCES} A file or a folder. Volumes are mounted as they are; all else is copied"
            " into every pod before the program starts."
        )
    )
    mount_path: Annotated[
        str,
        Text(
            r"(/([A-Za-z0-9_@=+,-][A-Za-z0-9._@=+,-]*|\.[A-Za-z0-9_@=+,-][A-Za-z0-9._@=+,-]*))+",
            "must be an absolute path such as /data/train, without .. in it and without a / at its end",
            512,
        ),
    ] = Field(description="The folder the program finds it in, read-only.")
    credentials: Credentials | None = Field(None, description=CREDENTIALS)
    digest: Digest | None = Field(
        None, description="sha256:<64 hex digits> of the file; any other bytes are refused."
    )

    rules = (
        Rule(
            "!self.mountPath.matches('^/(dev|proc|sys|run|var/run)(/|$)') && self.mountPath != '/var'",
            "mountPath must not be in /dev, /proc, /sys, /run or /var/run: they are the pod's own",
            lambda self: _visible(self.mount_path),
        ),
        Rule(
            f"!self.uri.startsWith('{CLAIM_SCHEME}') || !(has(self.credentials) || has(self.digest))",
            "a volume is mounted as it is: leave out credentials and digest for pvc://",
            lambda self: not (self.uri.startswith(CLAIM_SCHEME) and (self.credentials or self.digest)),
        ),
    )


#: For the resource that has `data`.
DATA_ONCE = (
    Rule(
        "!has(self.data) || self.data.all(one, self.data.exists_one(other, other.name == one.name))",
        "two items of data have one name: give each its own",
        lambda self: len({one.name for one in self.data or ()}) == len(self.data or ()),
    ),
    Rule(
        "!has(self.data) || self.data.all(one, self.data.exists_one(other,"
        " (other.mountPath + '/').startsWith(one.mountPath + '/')))",
        "the mountPath of one item of data is that of another or inside it: give each a folder of its own",
        lambda self: all(
            sum(f"{other.mount_path}/".startswith(f"{one.mount_path}/") for other in self.data) == 1
            for one in self.data or ()
        ),
    ),
)
