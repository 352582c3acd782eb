"""`capstan-serving`: load a model repository and serve it until told to stop."""

import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from capstan_serving import log_settings, memory, nvml, otlp, settings, table, termination
from capstan_serving._native import Server
from capstan_serving.backends import onnx, providers
from capstan_serving.catalog import Catalog
from capstan_serving.control import Control
from capstan_serving.lifecycle import Lifecycle
from capstan_serving.loading import Loader
from capstan_serving.otlp import Exporter
from capstan_serving.repository import Repository
from capstan_serving.settings import Settings

_log = logging.getLogger("capstan_serving")

EXIT_FAILED = 1


class StartError(Exception):
    """The server cannot start; the first argument is the reason in CamelCase, the second the sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server. 0 after a drain, 1 when it could not start or not drain in time, 2 for bad flags."""
    chosen = settings.parse(sys.argv[1:] if arguments is None else arguments, os.environ)
    memory.share_arenas()
    _open_files()
    logging.basicConfig(level=logging.INFO, format=log_settings.LINE)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(chosen, stop)
    except StartError as error:
        reason, message = error.args
        _log.error("%s: %s", reason, message)
        termination.write(chosen.termination_log, reason, message, EXIT_FAILED)
        return EXIT_FAILED
    return 0


def _open_files() -> None:
    """Take as many open files as the system allows: each connection is one, and shells allow 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def serve(chosen: Settings, stop: threading.Event) -> None:
    """Listen, load, be ready, and drain once `stop` is set. StartError when there is nothing to serve."""
    exporter = _exporter(chosen)
    control = Control(Catalog(), exporter, nvml.find())
    control.shared_memory = chosen.allow_shared_memory
    try:
        server = Server(
            control,
            host=chosen.host,
            ports=(chosen.http_port, chosen.grpc_port, chosen.metrics_port),
            max_request_bytes=chosen.max_request_bytes,
            max_inflight_bytes=chosen.max_inflight_bytes,
            queue_size=chosen.queue_size,
            max_connections=chosen.max_connections,
            client_timeout=chosen.client_timeout,
            allow_shared_memory=chosen.allow_shared_memory,
            response_cache_bytes=chosen.response_cache_bytes,
            tracer=exporter.tracer if exporter else None,
        )
    except OSError as error:
        raise StartError("AddressUnavailable", f"{error}; choose another port or address") from error
    control.statistics = server.statistics
    control.connections = server.connections
    try:
        _run(chosen, control, server, stop)
    finally:
        _log.info("draining")
        drained = server.drain(chosen.drain_timeout)
        if exporter:
            exporter.stop()
        if not drained:
            _abandon(chosen)
        _log.info("drained")


def _exporter(chosen: Settings) -> Exporter | None:
    """Where traces go. A wrong environment stops no server, for it may be that of a whole cluster."""
    try:
        collector = otlp.collector(chosen.trace_otlp_endpoint, os.environ)
    except otlp.Misconfigured as error:
        if chosen.trace_otlp_endpoint:
            raise StartError("TracingMisconfigured", str(error)) from error
        _log.warning("nothing is traced: %s", error)
        return None
    if collector is None:
        return None
    _log.info("requests are traced, and exported to %s", collector.url)
    return Exporter(collector)


def _run(chosen: Settings, control: Control, server: Server, stop: threading.Event) -> None:
    models = control.catalog
    doors = [
        ("HTTP", f"{chosen.host}:{server.http_port}"),
        ("gRPC", f"{chosen.host}:{server.grpc_port}"),
        ("metrics", f"{chosen.host}:{server.metrics_port}"),
    ]
    _log.info("listening: %s", ", ".join(f"{door} {address}" for door, address in doors))
    lifecycle = _load(chosen, control, server, stop)
    print(table.render(doors, models), flush=True)
    failed = dict.fromkeys(entry.reason for entry in models if entry.state != "READY")
    if failed and chosen.exit_on_error:
        raise StartError("ModelLoadFailed", "; ".join(failed))
    if not stop.is_set():
        server.set_ready(True)
        _log.info("ready")
    if chosen.model_control_mode == "poll":
        while not stop.wait(chosen.repository_poll_secs):
            lifecycle.poll()
    stop.wait()


def _abandon(chosen: Settings) -> NoReturn:
    """End the process although threads still execute: the interpreter cannot be taken down around them."""
    message = f"requests were still open {chosen.drain_timeout} s after the drain began and are abandoned"
    _log.warning(message)
    termination.write(chosen.termination_log, "DrainTimeout", message, EXIT_FAILED)
    logging.shutdown()
    os._exit(EXIT_FAILED)


def _load(chosen: Settings, control: Control, server: Server, stop: threading.Event) -> Lifecycle:
    models = control.catalog
    loader = Loader(
        workers=chosen.workers,
        providers=chosen.providers,
        available=onnx.available(),
        gpus=providers.gpus(),
        capabilities=control.gpus.capabilities() if control.gpus else (),
        engine_cache=chosen.engine_cache,
        custom_operators=chosen.allow_custom_operators,
    )
    lifecycle = Lifecycle(models, Repository(chosen.model_repository), loader, server)
    names = None
    if chosen.model_control_mode == "explicit":
        models.load, models.unload, models.discover = lifecycle.load, lifecycle.unload, lifecycle.names
        names = None if "*" in chosen.load_model else chosen.load_model
    try:
        lifecycle.start(names, chosen.model_load_thread_count, stop)
    except OSError as error:
        raise StartError(
            "ModelRepositoryUnavailable",
            f"the model repository cannot be read ({error}); check --model-repository and the folder's mode",
        ) from error
    return lifecycle


if __name__ == "__main__":
    sys.exit(main())
