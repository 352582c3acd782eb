"""Who sends a report: the pod's own token, which the API server vouches for.

What a token says of itself is read first, without belief: unless it is about a pod that may report, nobody
is asked, so that junk costs the API server nothing. What the API server has said is believed for as long as
the token lives.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from capstan_operator.core import get
from capstan_operator.core.training.reporting import AUDIENCE
from capstan_operator.shell.client import Api
from capstan_operator.shell.keys import Resource

REVIEWS = Resource("authentication.k8s.io/v1", "TokenReview", "tokenreviews")
_POD_NAME, _POD_UID = (f"authentication.kubernetes.io/pod-{part}" for part in ("name", "uid"))
#: Tokens that are remembered, and for how many seconds those that are refused are.
KNOWN, REFUSED = 10_000, 60.0
_LENGTH = 8192


class Claims(NamedTuple):
    """The pod that a token is bound to, and when it ends (seconds since the epoch)."""

    namespace: str
    pod: str
    uid: str
    expires: float


def claims_of(token: str) -> Claims | None:
    """What a token says of itself; None when it is none of a pod's for us."""
    parts = token.split(".")
    if len(token) > _LENGTH or len(parts) != 3:
        return None
    try:
        found: Any = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError, binascii.Error):
        return None
    audiences = found.get("aud") if isinstance(found, dict) else None
    if AUDIENCE not in (audiences if isinstance(audiences, list) else [audiences]):
        return None
    namespace = get.text(found, "kubernetes.io", "namespace")
    pod, uid = (get.text(found, "kubernetes.io", "pod", field) for field in ("name", "uid"))
    expires = get.number(found, "exp")
    return Claims(namespace, pod, uid, expires) if namespace and pod and uid and expires else None


class Reviewer:
    """Asks the API server about tokens, each once."""

    def __init__(self, api: Api, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[bool, float]] = OrderedDict()

    async def vouches(self, token: str, claims: Claims) -> bool:
        """Say whether the token is what it says.

        Raises Transient when nobody can tell at the moment, Rejected when we may not ask.
        """
        mark, now = hashlib.sha256(token.encode()).digest(), self._clock()
        known = self._known.get(mark)
        if known is not None and now < known[1]:
            return known[0]
        good = claims.expires > now and await self._review(token, claims)
        self._known[mark] = (good, claims.expires if good else now + REFUSED)
        self._known.move_to_end(mark)
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return good

    async def _review(self, token: str, claims: Claims) -> bool:
        answer = await self._api.create(
            REVIEWS,
            {
                "apiVersion": REVIEWS.api_version,
                "kind": REVIEWS.kind,
                "metadata": {},
                "spec": {"token": token, "audiences": [AUDIENCE]},
            },
        )
        status = get.mapping(answer, "status")
        extra = get.mapping(status, "user", "extra")
        return (
            status.get("authenticated") is True
            and status.get("audiences") == [AUDIENCE]
            and get.text(status, "user", "username").startswith(f"system:serviceaccount:{claims.namespace}:")
            and (extra.get(_POD_NAME), extra.get(_POD_UID)) == ([claims.pod], [claims.uid])
        )
