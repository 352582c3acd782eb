"""`s3://<bucket>/<key>`, `gs://<bucket>/<key>`, `az://<container>/<path>`: an object, or all below a prefix.

The three speak through obstore, which reads the usual variables of each cloud from the environment; what
is decided here is only when nobody is to be asked for credentials, and that bytes come by URLs that it
signs, where that needs no request. Its messages hold such URLs and are never passed on.
"""

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from capstan_agent.download import retried
from capstan_agent.errors import FetchError, InvalidURI, ModelNotFound, PermissionDenied, SourceUnavailable
from capstan_agent.remote.signed import Signed, pieces, proxied
from capstan_agent.sources import Places
from capstan_agent.sources.listing import ENTRIES, File, Interrupted, Listing, folder, place

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_T = TypeVar("_T")
_Store = S3Store | GCSStore | AzureStore
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_URL = re.compile(r"https?://\S+")
_SHOWN = 20
_EXPIRY = timedelta(minutes=15)
"""As far as clocks may be apart for any other request. A URL is used at once, and once."""
_RETRY: "RetryConfig" = {"max_retries": 1}
"""Trying again is ours to do: one place knows how long, and goes on where a part of a file broke off."""


def listing(uri: str, _places: Places) -> Listing:
    """What is at an address."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise InvalidURI(f"{uri!r} names no bucket: write {scheme}://<bucket>/<key>.")
    prefix = key.rstrip("/")
    if prefix:
        place(prefix, repr(uri))
    store = _Objects(_open(scheme, bucket), f"{scheme}://{bucket}")
    if prefix and not key.endswith("/") and (meta := store.head(prefix)):
        name = PurePosixPath(prefix).name
        return Listing((store.file(meta, PurePosixPath()),), single=True, name=name, close=store.close)
    metas = store.below(prefix)
    if not metas:
        raise ModelNotFound(store.what_is_there(prefix, uri))
    above = {parent for meta in metas for parent in _parents(meta["path"])}
    start = f"{prefix}/" if prefix else ""
    return folder(
        [
            store.file(meta, place(meta["path"].removeprefix(start), f"{scheme}://{bucket}/{meta['path']}"))
            for meta in metas
            if not (meta["size"] == 0 and meta["path"] in above)  # how consoles mark a folder
        ],
        uri,
        store.close,
    )


def _parents(path: str) -> Iterator[str]:
    for parent in PurePosixPath(path).parents:
        yield str(parent)


class _Objects:
    """A bucket."""

    def __init__(self, store: _Store, name: str) -> None:
        self._store, self._name = store, name
        anonymous = str(store.config.get("skip_signature")).lower() != "false"
        signs = isinstance(store, S3Store) or (
            isinstance(store, AzureStore) and bool(os.environ.get("AZURE_STORAGE_ACCOUNT_KEY"))
        )
        self._signed = Signed(self._url) if signs and not anonymous and not proxied() else None
        """Where a signature is made here. Azure's identities of pods, and Google's, make a request of each;
        with Google's keys none could be tried, since its emulator takes none."""

    def close(self) -> None:
        """Keep no connection."""
        if self._signed:
            self._signed.close()

    def _url(self, key: str) -> str:
        return obstore.sign(self._store, "GET", key, _EXPIRY)

    def head(self, key: str) -> Mapping[str, Any] | None:
        """What is known of an object; None where there is none."""
        with_key = f"{self._name}/{key}"
        try:
            return _asked(lambda: cast("Mapping[str, Any]", obstore.head(self._store, key)), with_key)
        except ModelNotFound:
            return None

    def below(self, prefix: str) -> list[Mapping[str, Any]]:
        """What is known of all objects below a prefix."""

        def ask() -> list[Mapping[str, Any]]:
            found: list[Mapping[str, Any]] = []
            for chunk in obstore.list(self._store, prefix or None, chunk_size=1000):
                found += cast("list[Mapping[str, Any]]", chunk)
                if len(found) > 2 * ENTRIES:
                    break
            return [meta for meta in found if meta["path"] != prefix]

        return _asked(ask, f"{self._name}/{prefix}")

    def file(self, meta: Mapping[str, Any], path: PurePosixPath) -> File:
        """An object as a file."""
        key, size, tag = meta["path"], meta["size"], _quoted(meta["e_tag"])
        name = f"{self._name}/{key}"

        def read(start: int, stop: int, room: memoryview | None = None) -> Iterator[memoryview]:
            with _Told(name):
                response = self._signed.part(key, tag, start, stop, size) if self._signed and tag else None
            if response is not None:
                yield from pieces(response, stop - start, room, name)
                return
            with _Told(name):
                options: dict[str, Any] = {"range": (start, stop)} | ({"if_match": tag} if tag else {})
                result = obstore.get(self._store, key, options=cast("Any", options))
                now = result.meta
                if result.range != (start, stop) or now["size"] != size or _quoted(now["e_tag"]) != tag:
                    raise _changed(name)
                piece = memoryview(result.bytes())
            yield piece

        return File(path, size, name, read, tag, ranges=True)

    def what_is_there(self, key: str, uri: str) -> str:
        """The sentence for what does not exist: what its folder holds instead."""
        parent = key.rpartition("/")[0]

        def ask() -> list[str]:
            found = obstore.list_with_delimiter(self._store, parent or None)
            names = [
                *(f"{path}/" for path in found["common_prefixes"]),
                *(meta["path"] for meta in found["objects"]),
            ]
            return sorted(name.removeprefix(f"{parent}/") for name in names)

        names = [name if name.isprintable() else repr(name) for name in _asked(ask, uri)]
        listed = ", ".join(names[:_SHOWN]) or "nothing"
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"{uri} does not exist: {self._name}/{parent + '/' if parent else ''} holds {listed}{more}."


def _asked(step: Callable[[], _T], name: str) -> _T:
    def told() -> _T:
        with _Told(name):
            return step()

    return retried(told)


def _quoted(tag: str | None) -> str | None:
    """An entity tag as headers have it: some listings (Azure's) leave the quotes out."""
    return f'"{tag.strip(chr(34))}"' if tag else None


def _changed(name: str) -> SourceUnavailable:
    return SourceUnavailable(
        f"{name} changed while it was being fetched; it is fetched anew. Publish under a new name instead."
    )


def _open(scheme: str, bucket: str) -> _Store:
    """A bucket, with the credentials that the environment has; where it has none, as anybody."""
    env = os.environ
    options: ClientConfig = {"connect_timeout": "10s", "read_timeout": "30s", "timeout": "1h"}
    endpoints = (
        "AWS_ENDPOINT_URL_S3",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT",
        "GOOGLE_BASE_URL",
        "AZURE_STORAGE_ENDPOINT",
    )
    if any(env.get(name, "").startswith("http://") for name in endpoints):
        options["allow_http"] = True
    try:
        if scheme == "s3":
            return S3Store(
                bucket,
                client_options=options,
                retry_config=_RETRY,
                skip_signature=not any(map(env.get, _AWS)),
            )
        if scheme == "gs":
            anonymous = not any(map(env.get, _GOOGLE)) and not _on_google_cloud()
            return GCSStore(bucket, client_options=options, retry_config=_RETRY, skip_signature=anonymous)
        if not env.get("AZURE_STORAGE_ACCOUNT_NAME") and not env.get("AZURE_STORAGE_USE_EMULATOR"):
            raise InvalidURI(
                "az:// needs the storage account: put AZURE_STORAGE_ACCOUNT_NAME into the Secret."
            )
        return AzureStore(
            bucket, client_options=options, retry_config=_RETRY, skip_signature=not any(map(env.get, _AZURE))
        )
    except (exceptions.BaseError, ValueError, OSError) as error:
        if "ca certificates" in f"{error}".lower():
            raise SourceUnavailable(
                "There is no certificate authority to trust: SSL_CERT_FILE must name a file that has some."
            ) from None
        raise PermissionDenied(
            f"The credentials for {scheme}:// in the environment cannot be used: check the keys of the"
            " Secret, each in the form that its cloud issued it."
        ) from None


_AWS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
_GOOGLE = ("GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_APPLICATION_CREDENTIALS")
_AZURE = (
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_USE_EMULATOR",
    "IDENTITY_ENDPOINT",
)


def _on_google_cloud() -> bool:
    """Whether a metadata server is there to give this pod's identity: no variable says so."""
    try:
        socket.create_connection(
            (os.environ.get("GCE_METADATA_HOST", "metadata.google.internal"), 80), 1
        ).close()
    except OSError:
        return False
    return True


class _Told:
    """Tells obstore's errors as ours. Only what they are made of is looked at: they quote URLs and bodies."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _where: object) -> None:
        if isinstance(error, (exceptions.BaseError, OSError)) and not isinstance(error, FetchError):
            self._tell(error)

    def _tell(self, error: BaseException) -> NoReturn:
        text, name = _URL.sub("", f"{error}".lower()), self._name  # keys may be named as errors are
        bucket = "/".join(name.split("/")[:3])
        if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError) or any(
            sign in text for sign in _REFUSALS
        ):
            raise PermissionDenied(
                f"{name} may not be read with the credentials in the environment (with none: as anybody):"
                " check the keys of the Secret, that they may list and read here, and the region."
            ) from None
        listed = "list request" in text and "404 not found" in text
        if listed or "nosuchbucket" in text or "containernotfound" in text:
            raise ModelNotFound(
                f"{bucket} does not exist: correct the address, or AWS_ENDPOINT_URL."
            ) from None
        if isinstance(error, exceptions.NotFoundError | FileNotFoundError):
            raise ModelNotFound(f"{name} does not exist: correct the address.") from None
        if isinstance(error, exceptions.PreconditionError):
            raise _changed(name) from None
        if "received redirect" in text or "permanentredirect" in text:
            raise SourceUnavailable(
                f"{bucket} is in another region: put its AWS_REGION into the Secret."
            ) from None
        if "peer certificate" in text or "unknownissuer" in text:
            raise SourceUnavailable(
                f"The certificate of the server of {bucket} is not trusted: give the bundle of the authority"
                " that issued it in SSL_CERT_FILE."
            ) from None
        raise Interrupted(f"Reading {name} failed ({_cause(text)}).") from None


_REFUSALS = (
    "access key id",
    "401 unauthorized",
    "403 forbidden",
    "expiredtoken",
    "invalidtoken",
    "invalid_grant",
    "assumerolewithwebidentity",
    "missing accesskeyid",
    "missing secretaccesskey",
)
_CAUSES = {
    "dns error": "the host of the endpoint has no address",
    "connection refused": "the connection was refused",
    "timed out": "there was no answer in time",
    "connection reset": "the connection was reset",
    "connection closed": "the connection was closed",
    "incompletemessage": "the answer broke off",
    "body": "the answer broke off",
}


def _cause(text: str) -> str:
    status = re.search(r"status code: (\d{3})", text)
    if status:
        return f"HTTP {status[1]}"
    return next((said for sign, said in _CAUSES.items() if sign in text), "for a reason that is not known")
