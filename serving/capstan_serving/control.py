"""The routes that are not hot, for both protocols: metadata, statistics, repository index, metrics.

Each is a function from the request's arguments to JSON; the two tables at the end say which route and
which gRPC call it answers. The native front end turns the JSON of a call into protobuf.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

from capstan_serving import __version__, metrics
from capstan_serving.catalog import Catalog
from capstan_serving.counters import ModelStatistics
from capstan_serving.errors import InvalidArgument, MethodNotAllowed, NotFound, Unimplemented
from capstan_serving.log_settings import LogSettings
from capstan_serving.nvml import Gpus
from capstan_serving.otlp import Exporter
from capstan_serving.trace_settings import TraceSettings

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
)
"""Of the protocol's extensions, those that always work."""

_Json = dict[str, Any]


class Control:
    """Answers for the server's Python side. Called from several threads at once."""

    def __init__(self, catalog: Catalog, exporter: Exporter | None = None, gpus: Gpus | None = None) -> None:
        self.catalog = catalog
        self.gpus = gpus
        """Of which there are metrics."""
        self.exporter = exporter
        """Where traces go, in a server that traces."""
        self.statistics: Callable[[], list[ModelStatistics]] = list
        """The server's counters; there are none before there is a server."""

        self.connections: Callable[[], list[tuple[str, int, int]]] = list
        """Its connections: a port's name, how many are open, how many were refused."""

        self.shared_memory = False
        """Whether clients may pass tensors in shared memory."""
        self.logs = LogSettings()
        self.traces = TraceSettings(exporter.tracer if exporter else None)

    def http(self, door: str, method: str, path: list[str], body: bytes) -> tuple[str, bytes]:
        """Answer an HTTP request."""
        allowed: list[str] = []
        for route_door, allow, pattern, answer in _ROUTES:
            arguments = _match(pattern, path) if route_door == door else None
            if arguments is None:
                continue
            if method == allow:
                return answer(self, (_arguments(body) if method == "POST" else {}) | arguments)
            allowed.append(allow)
        if allowed:
            raise MethodNotAllowed(", ".join(allowed))
        raise NotFound("there is nothing at this path")

    def rpc(self, name: str, request: str) -> str:
        """Answer a gRPC call."""
        if name not in _CALLS:
            raise Unimplemented(f"this server does not offer {name!r}")
        return json.dumps(_CALLS[name](self, json.loads(request)))

    def server_metadata(self, _arguments: _Json) -> _Json:
        """Who this is, and what it can."""
        some = {"system_shared_memory": self.shared_memory, "trace": self.exporter is not None}
        extensions = [*EXTENSIONS, *(name for name, offered in some.items() if offered)]
        return {"name": "capstan", "version": __version__, "extensions": extensions}

    def model_metadata(self, arguments: _Json) -> _Json:
        """A model's inputs and outputs."""
        entry, loaded = self.catalog.find(arguments["name"], arguments.get("version", ""))
        return {
            "name": entry.name,
            "versions": [str(served.version) for served in self.catalog.served(entry.name)],
            "platform": loaded.backend.platform,
            "inputs": [spec.metadata() for spec in loaded.signature.inputs],
            "outputs": [spec.metadata() for spec in loaded.signature.outputs],
        }

    def model_config(self, arguments: _Json) -> _Json:
        """A model's configuration that is in effect."""
        _, loaded = self.catalog.find(arguments["name"], arguments.get("version", ""))
        return loaded.config_json()

    def model_config_message(self, arguments: _Json) -> _Json:
        """The same as the protocol's message, in base64."""
        _, loaded = self.catalog.find(arguments["name"], arguments.get("version", ""))
        return {"config": base64.b64encode(loaded.config_message()).decode()}

    def load_model(self, arguments: _Json) -> _Json:
        """Load a model: `parameters` may have a configuration, as JSON, and files, as base64."""
        _one_repository(arguments)
        parameters = _parameters(arguments)
        config = parameters.pop("config", None)
        if not isinstance(config, str | None):
            raise InvalidArgument("the parameter 'config' must be a string: the configuration as JSON")
        files = {name: _content(name, text) for name, text in parameters.items()}
        self.catalog.load(arguments["name"], config, files)
        return {}

    def unload_model(self, arguments: _Json) -> _Json:
        """Unload a model."""
        _one_repository(arguments)
        dependents = _parameters(arguments).get("unload_dependents", False)
        if not isinstance(dependents, bool):
            raise InvalidArgument("the parameter 'unload_dependents' must be true or false")
        self.catalog.unload(arguments["name"], dependents)
        return {}

    def model_statistics(self, arguments: _Json) -> _Json:
        """Counters of one model, or of all."""
        name, version = arguments.get("name", ""), arguments.get("version", "")
        if name:
            entry, _ = self.catalog.find(name, version)
            version = version and str(entry.version)
        meant = [
            _statistics(model)
            for model in self.statistics()
            if name in ("", model["name"]) and version in ("", model["version"])
        ]
        return {"model_stats": meant}

    def repository_index(self, arguments: _Json) -> list[_Json]:
        """Every model of the repository, with its state."""
        _one_repository(arguments)
        only_ready = arguments.get("ready", False)
        if not isinstance(only_ready, bool):
            raise InvalidArgument("'ready' must be true or false")
        index: list[_Json] = []
        for entry in self.catalog.index():
            if entry.state == "READY" or not only_ready:
                named = {"name": entry.name, "version": str(entry.version) if entry.version else ""}
                index.append(named | {"state": entry.state, "reason": entry.reason})
        return index

    def log_settings(self, arguments: _Json) -> _Json:
        """What is logged, after the changes that the request asks for."""
        return self.logs.update(arguments)

    def trace_settings(self, arguments: _Json) -> _Json:
        """What is traced, of a model or of all, after the changes that the request asks for."""
        changes = dict(arguments)
        model = changes.pop("name", "")
        if not isinstance(model, str):
            raise InvalidArgument("'name' must be a string")
        if model:
            self.catalog.find(model)
        return self.traces.update(model, changes)

    def trace_settings_call(self, arguments: _Json) -> _Json:
        """The same in the form of the gRPC call: every value a list, an empty one the default."""
        changes = {
            name: (values if name == "trace_level" else values[0]) if values else None
            for name, values in arguments["settings"].items()
        }
        settings = self.trace_settings(changes | {"name": arguments["name"]})
        lists = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
        return {"settings": lists}


def _statistics(model: ModelStatistics) -> _Json:
    def duration(pair: tuple[int, int]) -> _Json:
        return {"count": pair[0], "ns": pair[1]}

    return {
        "name": model["name"],
        "version": model["version"],
        "last_inference": model["last_inference"],
        "inference_count": model["inferences"],
        "execution_count": model["executions"],
        "inference_stats": {
            "success": duration(model["success"]),
            "fail": duration(model["failed"]),
            "queue": duration(model["queue"]),
            "compute_input": duration(model["compute_input"]),
            "compute_infer": duration(model["compute_infer"]),
            "compute_output": duration(model["compute_output"]),
            "cache_hit": duration(model["cache_hit"]),
            "cache_miss": duration(model["cache_miss"]),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": duration((count, inputs)),
                "compute_infer": duration((count, infer)),
                "compute_output": duration((count, outputs)),
            }
            for rows, (count, inputs, infer, outputs) in model["by_rows"].items()
        ],
    }


def _arguments(body: bytes) -> _Json:
    """A request's JSON object; no body is an empty one."""
    if not body.strip():
        return {}
    try:
        arguments = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"failed to parse the request JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise InvalidArgument("the request JSON must be an object")
    return arguments


def _one_repository(arguments: _Json) -> None:
    if arguments.get("repository_name"):
        raise InvalidArgument("there is one repository, without a name")


def _parameters(arguments: _Json) -> _Json:
    parameters = arguments.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidArgument("'parameters' must be an object")
    return dict(parameters)


def _content(name: str, text: object) -> bytes:
    """A file of a load request."""
    if not name.startswith("file:"):
        raise InvalidArgument(
            f"the parameter {name!r} is not known; known are config and file:<version>/<name>"
        )
    try:
        return base64.b64decode(text, validate=True)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"the parameter {name!r} must be a file's content as base64") from error


def _match(pattern: str, path: list[str]) -> _Json | None:
    """The arguments that a path has where the pattern has names in braces."""
    parts = pattern.split("/")
    if len(parts) != len(path):
        return None
    arguments: _Json = {}
    for part, segment in zip(parts, path, strict=True):
        if part.startswith("{"):
            arguments[part[1:-1]] = segment
        elif part != segment:
            return None
    return arguments


def _json(answer: Callable[[Control, _Json], Any]) -> Callable[[Control, _Json], tuple[str, bytes]]:
    return lambda control, arguments: ("application/json", json.dumps(answer(control, arguments)).encode())


def _metrics(control: Control, _arguments: _Json) -> tuple[str, bytes]:
    return metrics.CONTENT_TYPE, metrics.exposition(
        control.statistics(), control.catalog, control.exporter, control.gpus, control.connections()
    )


_ROUTES: tuple[tuple[str, str, str, Callable[[Control, _Json], tuple[str, bytes]]], ...] = (
    ("http", "GET", "v2", _json(Control.server_metadata)),
    ("http", "GET", "v2/models/stats", _json(Control.model_statistics)),
    ("http", "GET", "v2/models/{name}", _json(Control.model_metadata)),
    ("http", "GET", "v2/models/{name}/versions/{version}", _json(Control.model_metadata)),
    ("http", "GET", "v2/models/{name}/stats", _json(Control.model_statistics)),
    ("http", "GET", "v2/models/{name}/versions/{version}/stats", _json(Control.model_statistics)),
    ("http", "GET", "v2/models/{name}/config", _json(Control.model_config)),
    ("http", "GET", "v2/models/{name}/versions/{version}/config", _json(Control.model_config)),
    ("http", "POST", "v2/repository/index", _json(Control.repository_index)),
    ("http", "POST", "v2/repository/models/{name}/load", _json(Control.load_model)),
    ("http", "POST", "v2/repository/models/{name}/unload", _json(Control.unload_model)),
    ("http", "GET", "v2/logging", _json(Control.log_settings)),
    ("http", "POST", "v2/logging", _json(Control.log_settings)),
    ("http", "GET", "v2/trace/setting", _json(Control.trace_settings)),
    ("http", "POST", "v2/trace/setting", _json(Control.trace_settings)),
    ("http", "GET", "v2/models/{name}/trace/setting", _json(Control.trace_settings)),
    ("http", "POST", "v2/models/{name}/trace/setting", _json(Control.trace_settings)),
    ("metrics", "GET", "metrics", _metrics),
)

_CALLS: dict[str, Callable[[Control, _Json], Any]] = {
    "ServerMetadata": Control.server_metadata,
    "ModelMetadata": Control.model_metadata,
    "ModelStatistics": Control.model_statistics,
    "ModelConfig": Control.model_config_message,
    "RepositoryIndex": Control.repository_index,
    "RepositoryModelLoad": Control.load_model,
    "RepositoryModelUnload": Control.unload_model,
    "LogSettings": lambda control, request: {"settings": control.log_settings(request["settings"])},
    "TraceSetting": Control.trace_settings_call,
}
