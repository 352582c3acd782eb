"""How a version of a model is loaded: configuration, session, checks, warm-up. It is not served yet."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from capstan_serving._native import Batch
from capstan_serving.backends import Backend, options, providers, tensorrt
from capstan_serving.backends.onnx import FILE, OnnxBackend
from capstan_serving.backends.tensorrt import Options
from capstan_serving.config import document, plan, tensors, warmup
from capstan_serving.config.schema import ModelConfig
from capstan_serving.errors import ModelLoadError
from capstan_serving.repository import ModelFolder
from capstan_serving.scheduling import Scheduling
from capstan_serving.signature import Signature

_log = logging.getLogger(__name__)

Execute = Callable[[Batch], Sequence[NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that can be served."""

    folder: ModelFolder
    """Kept, because files of a load request go with it."""
    config: Any
    """What is in effect."""
    backend: Backend
    execute: Execute
    signature: Signature
    workers: int
    scheduling: Scheduling
    labels: dict[str, list[str]]
    missing: tuple[str, ...]
    """The providers, by ONNX Runtime's names, that were to execute the model and do not."""
    seconds: float

    def config_json(self) -> dict[str, Any]:
        """The configuration, in the protocol's JSON form."""
        return document.to_dict(self.config)

    def config_message(self) -> bytes:
        """The configuration, as the protocol's protobuf message `ModelConfig`."""
        message: bytes = self.config.SerializeToString(deterministic=True)
        return message


@dataclass(frozen=True, slots=True)
class Loader:
    """What the command line and the machine have to say of every model."""

    workers: int
    providers: tuple[str, ...] = ()
    """In the order of choice; none: the GPU where there is one."""
    available: tuple[str, ...] = ("CPUExecutionProvider",)
    """As ONNX Runtime calls them."""
    gpus: tuple[int, ...] = ()
    capabilities: Collection[str] = ()
    """Of the GPUs to compute, such as 8.0."""
    engine_cache: Path | None = None
    custom_operators: bool = False

    def configuration(self, folder: ModelFolder, override: str | None = None) -> Any:
        """The model's configuration: that of a load request, the folder's, or an empty one."""
        if override is not None:
            config = document.from_json(override, folder.name)
        else:
            text = folder.config()
            config = ModelConfig() if text is None else document.from_text(text, folder.path / document.FILE)
        plan.check(config, folder.name, _where(folder))
        return config

    def load(self, folder: ModelFolder, version: int, config: Any) -> Loaded:
        """Load a version. The configuration is completed to what is in effect."""
        start = time.monotonic()
        where = _where(folder)
        config.default_model_filename = config.default_model_filename or FILE
        wanted = providers.asked(config, self.providers or ("cuda", "cpu"), where)
        gpus = self.gpus if self._on_gpu(wanted) else ()
        instances = plan.instances(config, self.workers, gpus, where)
        file = folder.file(
            str(version), plan.filename(config, bool(instances.gpus), self.capabilities, where)
        )
        session_options = options.read(config, where)
        session_options.check(instances.gpus, where)
        choices = [providers.usable(wanted, self.available, gpu) for gpu in instances.gpus or (None,)]
        if self.engine_cache:
            choices = tensorrt.cached(choices, self.engine_cache, file)
        backend = OnnxBackend(file, session_options, choices, self._libraries(folder, config, where))
        # What nobody named is missed only where it should have worked.
        named = self.providers or config.optimization.execution_accelerators.ListFields()
        expected = [providers.PROVIDERS[name] for name, _ in wanted] if named else dict(choices[0])
        missing = tuple(name for name in expected if name not in backend.providers)
        try:
            return self._checked(folder, config, backend, instances, missing, start)
        except BaseException:
            backend.close()
            raise

    def _checked(
        self,
        folder: ModelFolder,
        config: Any,
        backend: Backend,
        instances: plan.Instances,
        missing: tuple[str, ...],
        start: float,
    ) -> Loaded:
        where = _where(folder)
        resolved = tensors.resolve(config, backend.signature, where)
        execute = reshaped(backend.execute, resolved)
        labels = {
            output: tensors.labels(folder.file(file)) for output, file in tensors.label_files(config).items()
        }
        scheduling = plan.scheduling(config, where)
        _warm_up(folder, config, resolved.signature, execute, max(1, len(instances.gpus)))
        return Loaded(
            folder=folder,
            config=config,
            backend=backend,
            execute=execute,
            signature=resolved.signature,
            workers=instances.workers,
            scheduling=scheduling,
            labels=labels,
            missing=missing,
            seconds=time.monotonic() - start,
        )

    def _on_gpu(self, wanted: Sequence[tuple[str, Options]]) -> bool:
        return any(
            name in providers.GPU and providers.PROVIDERS[name] in self.available for name, _ in wanted
        )

    def _libraries(self, folder: ModelFolder, config: Any, where: str) -> list[Path]:
        names = list(config.model_operations.op_library_filename)
        if names and folder.sent:
            raise ModelLoadError(
                f"{where}: model_operations names libraries, which are not taken from a request; put the "
                "model into the repository"
            )
        if names and not self.custom_operators:
            raise ModelLoadError(
                f"{where}: model_operations names libraries, whose code would run in this server; "
                "start it with --allow-custom-operators if you trust them"
            )
        return [folder.file(name) for name in names]


def reshaped(execute: Execute, resolved: tensors.Tensors) -> Execute:
    """Execution of what requests see in other shapes than the model does."""
    inputs, outputs = resolved.inputs, resolved.outputs
    if not inputs and not outputs:
        return execute

    def run(batch: Batch) -> Sequence[NDArray[Any]]:
        given = {
            name: inputs[name].to_model(array) if name in inputs else array
            for name, array in batch.inputs.items()
        }
        results = execute(Batch(given, batch.outputs))
        return [
            outputs[name].from_model(array) if name in outputs else array
            for name, array in zip(batch.outputs, results, strict=True)
        ]

    return run


def _warm_up(folder: ModelFolder, config: Any, signature: Signature, execute: Execute, sessions: int) -> None:
    """Execute the samples on each session: they take turns."""
    where = _where(folder)
    outputs = tuple(spec.name for spec in signature.outputs)

    def read(name: str) -> Path:
        return folder.file(warmup.FOLDER, name)

    for name, count, inputs in warmup.samples(config, signature, read, where):
        start = time.monotonic()
        try:
            for _ in range(count * sessions):
                execute(Batch(inputs, outputs))
        except Exception as error:
            raise ModelLoadError(
                f"{where}: the warm-up {name!r} failed ({error}); correct its inputs"
            ) from error
        _log.info("model %s is warmed up by %r, in %.2f s", folder.name, name, time.monotonic() - start)


def _where(folder: ModelFolder) -> str:
    return str(folder.path / document.FILE)
