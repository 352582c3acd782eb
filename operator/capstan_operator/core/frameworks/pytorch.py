"""PyTorch: torchrun reads each of its flags from PET_<FLAG>, so the command is `torchrun train.py`.

Static rendezvous: every replica knows its rank and where replica 0 is. (torch.distributed.run, "env:// and
PET_ variables"; port 29500 is torch's own default.)
"""

from __future__ import annotations

from typing import Final

from capstan_operator.core import pods
from capstan_operator.core.frameworks.shape import Shape, index_variable
from capstan_operator.core.model import Manifest

PORT: Final = 29500


def env(shape: Shape) -> list[Manifest]:
    """torchrun's, and those that a program started without torchrun reads (torchrun overrides them)."""
    variables = pods.env(
        {
            "PET_NNODES": str(shape.replicas),
            "PET_NPROC_PER_NODE": str(shape.processes),
            "PET_MASTER_ADDR": shape.first,
            "PET_MASTER_PORT": str(PORT),
            "MASTER_ADDR": shape.first,
            "MASTER_PORT": str(PORT),
            "WORLD_SIZE": str(shape.replicas * shape.processes),
        }
    )
    variables.append(index_variable("PET_NODE_RANK"))
    if shape.processes == 1:
        # One process a replica: the replica's index is the process's rank.
        variables += [index_variable("RANK"), *pods.env({"LOCAL_RANK": "0"})]
    return variables


def ports(shape: Shape) -> dict[str, int]:
    """Where replica 0 is met; alone it is met by nobody."""
    return {"rendezvous": PORT} if shape.replicas > 1 else {}
