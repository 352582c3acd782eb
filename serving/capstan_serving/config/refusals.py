"""What of a configuration is known and not supported. It is refused by name, never ignored."""

from collections.abc import Iterator
from typing import Any

from capstan_serving.config.schema import PACKAGE

CUDA_GRAPHS = "a captured graph reads the memory of its first execution and would answer like that for ever"

REFUSED = {
    "ModelConfig.runtime": "ONNX Runtime is the one runtime",
    "ModelConfig.batch_input": "ragged batches are not supported",
    "ModelConfig.batch_output": "ragged batches are not supported",
    "ModelConfig.sequence_batching": "every request stands alone here: no state is kept between them",
    "ModelConfig.ensemble_scheduling": "a model does not call others; put the steps into one ONNX graph",
    "ModelConfig.metric_tags": "metrics are labelled by model and version only",
    "ModelConfig.model_repository_agents": "there are no repository agents",
    "ModelConfig.model_metrics": "every model has the same metrics",
    "ModelInput.is_shape_tensor": "ONNX Runtime has no shape tensors",
    "ModelInput.allow_ragged_batch": "only requests of equal shapes are executed together",
    "ModelInput.optional": "every input is needed",
    "ModelInput.is_non_linear_format_io": "it is TensorRT's",
    "ModelOutput.is_shape_tensor": "ONNX Runtime has no shape tensors",
    "ModelOutput.is_non_linear_format_io": "it is TensorRT's",
    "ModelInstanceGroup.rate_limiter": "there is no rate limiter; `count` bounds what runs at once",
    "ModelInstanceGroup.secondary_devices": "ONNX Runtime has no secondary devices",
    "ModelInstanceGroup.profile": "shape profiles are parameters of the tensorrt accelerator",
    "ModelInstanceGroup.passive": "every instance is in use",
    "ModelInstanceGroup.host_policy": "there are no host policies",
    "ModelOptimizationPolicy.priority": "it is TensorRT's",
    "ModelOptimizationPolicy.input_pinned_memory.enable": "inputs are executed where they arrived",
    "ModelOptimizationPolicy.output_pinned_memory.enable": "outputs are sent from where they were computed",
    "ModelOptimizationPolicy.gather_kernel_buffer_threshold": "there is no gather kernel",
    "ModelOptimizationPolicy.eager_batching": "batches are made when they are executed",
    "ModelOptimizationPolicy.Cuda.graphs": CUDA_GRAPHS,
    "ModelOptimizationPolicy.Cuda.busy_wait_events": "it is TensorRT's",
    "ModelOptimizationPolicy.Cuda.graph_spec": "CUDA graphs are not supported",
    "ModelOptimizationPolicy.Cuda.output_copy_stream": "it is TensorRT's",
    "ModelTransactionPolicy.decoupled": "an ONNX model answers each request once",
}
"""By message and field, and why. (Their default value is as good as none.)"""


def refused(message: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The fields of a configuration that are not supported: where they are, and why."""
    kind = message.DESCRIPTOR.full_name.removeprefix(f"{PACKAGE}.")
    for field, value in message.ListFields():
        here = f"{path}{field.name}"
        reason = REFUSED.get(f"{kind}.{field.name}")
        if reason:
            yield here, reason
        elif field.message_type is None:
            continue
        elif field.message_type.name == "PinnedMemoryBuffer":
            if value.enable:
                yield f"{here}.enable", REFUSED[f"{kind}.{field.name}.enable"]
        elif field.message_type.GetOptions().map_entry:
            for key, entry in value.items():
                if hasattr(entry, "DESCRIPTOR"):
                    yield from refused(entry, f"{here}[{key}].")
        elif field.is_repeated:
            for index, entry in enumerate(value):
                yield from refused(entry, f"{here}[{index}].")
        else:
            yield from refused(value, f"{here}.")
