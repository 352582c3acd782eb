"""What a Job or a revision was made from, so that only what a user changes makes another.

A release renders the same spec differently: other images, one port more. That is no reason to end a gang or
to replace pods that answer, so what is compared is what was asked for. It is the same as long as either the
resource's generation or the hash of its spec is: the generation counts what users change, and not what an
older or newer CRD cuts off or adds; the hash is the same when a user writes again what was there before.
"""

from __future__ import annotations

from dataclasses import dataclass

from capstan_operator.core import get, labels
from capstan_operator.core.model import Manifest


@dataclass(frozen=True, slots=True)
class Origin:
    """What is asked for. `inputs`: the hash of what it is made from beside the spec."""

    generation: int
    spec: str
    inputs: str = ""

    def __str__(self) -> str:
        """The annotation."""
        return "-".join(part for part in (str(self.generation), self.spec, self.inputs) if part)

    def same(self, made_from: str) -> bool:
        """Whether something was made from this, by its annotation."""
        generation, _, rest = made_from.partition("-")
        spec, _, inputs = rest.partition("-")
        return inputs == self.inputs and (generation == str(self.generation) or spec == self.spec)

    def recorded(self, live: Manifest | None) -> str:
        """The annotation to write. Of one generation the first one stays: it knew the spec uncut."""
        made = of(live)
        one = made.partition("-")[0] == str(self.generation)
        return made if made and one and self.same(made) else str(self)


def of(live: Manifest | None) -> str:
    """What an object says that it was made from."""
    return get.text(live, "metadata", "annotations", labels.MADE_FROM)


def seen(resource: Manifest) -> bool:
    """Whether the operator has seen the resource's spec, of whichever release it was then."""
    generation = get.number(resource, "metadata", "generation")
    return get.number(resource, "status", "observedGeneration") == generation
