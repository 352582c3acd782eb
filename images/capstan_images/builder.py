"""Builds what is missing, in the order that keeps a machine busy, and says how long each step took."""

import fcntl
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from capstan_images import base, catalogue, engines, native
from capstan_images.engines import Buildah, Engine

Say = Callable[[str], None]


@contextmanager
def _timed(say: Say, what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    say(f"{what} in {time.monotonic() - began:.1f} s")


def build(
    names: Iterable[str], say: Say = print, *, engine: Engine | None = None, gpu: bool = False
) -> dict[str, str]:
    """Build those of the named images that are not there yet; return each name's image reference.

    `engine`: by default the machine's. `gpu` chooses the variants with the libraries that NVIDIA's GPUs need.
    Raises ImageError.
    """
    engine = engine or engines.engine()
    local: dict[str, str] = {}
    if isinstance(engine, Buildah):
        local = {"BASE_IMAGE": base.reference(base.suite()), "NATIVE": "prebuilt"}
    arguments = {name: {**catalogue.IMAGES[name].arguments(gpu), **local} for name in names}
    references = {name: catalogue.reference(catalogue.IMAGES[name], arguments[name]) for name in arguments}
    with _alone():
        missing = [name for name, reference in references.items() if not engine.has(reference)]
        for name, reference in references.items():
            if name not in missing:
                say(f"{reference} is there already")
        if missing and isinstance(engine, Buildah):
            _prepare(missing, engine, say)
        for name in missing:
            with _timed(say, f"{references[name]} built"):
                engine.build(name, references[name], arguments[name])
    return references


@contextmanager
def _alone() -> Iterator[None]:
    """Wait for whoever builds images of this repository now: what they build need not be built twice."""
    with (catalogue.ROOT / "Dockerfile").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prepare(missing: list[str], buildah: Buildah, say: Say) -> None:
    """Make the base and the serving wheel at once: one waits for the network, the other for the processor."""

    def make_base() -> None:
        release = base.suite()
        if not buildah.has(base.reference(release)):
            with _timed(say, f"{base.reference(release)} made"):
                base.make(release, buildah)

    def make_native() -> None:
        if "serving" in missing:
            with _timed(say, "serving wheel compiled"):
                native.make()

    with ThreadPoolExecutor() as pool:
        for work in [pool.submit(make_base), pool.submit(make_native)]:
            work.result()


def publish(
    references: dict[str, str], engine: Engine, registry: str, tag: str | None, say: Say = print
) -> dict[str, str]:
    """Push images as REGISTRY/NAME:TAG, the tag by default the one they have here; return the references."""
    pushed: dict[str, str] = {}
    for name, reference in references.items():
        pushed[name] = f"{registry.rstrip('/')}/{name}:{tag or reference.rpartition(':')[2]}"
        with _timed(say, f"{pushed[name]} pushed"):
            engine.push(reference, pushed[name])
    return pushed
