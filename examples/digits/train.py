"""Trains a small network on handwritten digits with DistributedDataParallel, and exports it to ONNX.

    torchrun --nproc-per-node 2 train.py

On GPUs (NCCL) or CPUs (Gloo), on one machine or many: torchrun takes what it must know from the environment,
where a TrainingJob puts it. So are the two folders:

    CAPSTAN_CHECKPOINT_DIR  a checkpoint after each epoch; a run that finds one goes on from it (optional)
    CAPSTAN_OUTPUT_DIR      receives model.onnx and metrics.json (default: ./output)
"""

import argparse
import json
import logging
import os
import pickle
import time
from pathlib import Path
from typing import Any

import checkpoints
import digits
import numpy as np
import onnxruntime
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


class Network(nn.Module):
    """Two convolutions and a linear layer, from raw pixels, float32 [n, 64], to logits, float32 [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 4 * 4, digits.CLASSES),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Scale the pixels here, so that whoever asks the served model need not know how."""
        logits: Tensor = self.layers(image / 16.0)
        return logits


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32, help="per process")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--min-accuracy", type=float, default=0.95, help="a worse model is not exported")
    return parser.parse_args()


def say(message: str) -> None:
    """Print from the first process alone."""
    if dist.get_rank() == 0:
        print(message, flush=True)


def dataset(data: digits.Digits) -> TensorDataset:
    """Arrays as PyTorch takes them."""
    return TensorDataset(torch.from_numpy(data.images), torch.from_numpy(data.labels))


def accuracy(network: nn.Module, data: digits.Digits, device: torch.device) -> float:
    """The share of `data` that the network names rightly."""
    network.eval()
    with torch.inference_mode():
        predicted = network(torch.from_numpy(data.images).to(device)).argmax(dim=1).cpu().numpy()
    return float((predicted == data.labels).mean())


def resume(folder: Path | None, network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint that can be read; return how many epochs are done.

    The first process reads and tells the others, so all go on from the same one, whatever each of them sees.
    """
    state: dict[str, Any] | None = None
    if folder and dist.get_rank() == 0:
        for path in checkpoints.newest_first(folder):
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                break
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                say(f"{path.name} cannot be read, trying the one before: {error}")
    told = [state]
    dist.broadcast_object_list(told, src=0)
    if (state := told[0]) is None:
        return 0
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    epoch = int(state["epoch"])
    say(f"going on after epoch {epoch}")
    return epoch


def train(options: argparse.Namespace, device: torch.device, split: digits.Split) -> tuple[nn.Module, float]:
    """Train in step with the other processes; return the network and its accuracy on the held-out digits."""
    network = Network().to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate)
    variable = os.environ.get("CAPSTAN_CHECKPOINT_DIR")
    folder = Path(variable) if variable else None
    done = resume(folder, network, optimizer)

    parallel = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
    data = dataset(split.train)
    sampler = DistributedSampler(data, seed=options.seed)
    loader = DataLoader(data, options.batch_size, sampler=sampler)
    for epoch in range(done, options.epochs):
        began = time.monotonic()
        sampler.set_epoch(epoch)
        parallel.train()
        loss = torch.zeros(())
        for images, labels in loader:
            optimizer.zero_grad()
            loss = cross_entropy(parallel(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
        if dist.get_rank() == 0:
            state = {"epoch": epoch + 1, "network": network.state_dict(), "optimizer": optimizer.state_dict()}
            if folder:
                checkpoints.save(folder, epoch + 1, lambda file, state=state: torch.save(state, file))
            rate = len(data) / (time.monotonic() - began)
            say(
                f"epoch {epoch + 1:>3}/{options.epochs}  loss {loss.item():.4f}"
                f"  accuracy {accuracy(network, split.test, device):.4f}  {rate:,.0f} digits/s"
            )
    return network, accuracy(network, split.test, device)


def export(network: nn.Module, path: Path, examples: Tensor) -> None:
    """Write the network as ONNX with a free batch dimension, once it is seen to answer as PyTorch does."""
    torch._logging.set_logs(all=logging.ERROR)  # its exporter warns of packages that are not needed here
    network.cpu().eval()
    program = torch.onnx.export(
        network, (examples[:2],), input_names=["image"], output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False,
    )  # fmt: skip
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for batch in (examples[:1], examples):
        with torch.inference_mode():
            expected = network(batch).numpy()
        (answered,) = session.run(["logits"], {"image": batch.numpy()})
        np.testing.assert_allclose(answered, expected, rtol=1e-3, atol=1e-4)
    checkpoints.write_atomically(path, lambda file: file.write(model))


def main() -> None:
    """Train; then let the first process export."""
    options = arguments()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        torch.manual_seed(options.seed)
        split = digits.load()
        say(
            f"{dist.get_world_size()} processes on {device.type},"
            f" {len(split.train.labels)} digits to train on, {len(split.test.labels)} held out"
        )
        network, reached = train(options, device, split)
        if reached < options.min_accuracy:
            raise SystemExit(f"accuracy {reached:.4f} is below {options.min_accuracy}: nothing is exported")
        if dist.get_rank() == 0:
            output = Path(os.environ.get("CAPSTAN_OUTPUT_DIR", "output"))
            export(network, output / "model.onnx", torch.from_numpy(split.test.images))
            metrics = {
                "accuracy": round(reached, 4), "heldOut": len(split.test.labels), "epochs": options.epochs,
                "processes": dist.get_world_size(),
            }  # fmt: skip
            checkpoints.write_atomically(
                output / "metrics.json", lambda file: file.write(json.dumps(metrics).encode())
            )
            say(f"exported {output / 'model.onnx'}, accuracy {reached:.4f} on held-out digits")
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
