"""The pieces both resources are made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from capstan_operator.api.base import Model, Rule, Text

GROUP = "capstan.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

#: A name as a Service or a label value may have it.
DNS_LABEL = "[a-z]([-a-z0-9]*[a-z0-9])?"

Name = Annotated[
    str,
    Text(DNS_LABEL, "must be lower-case letters, digits and dashes, beginning with a letter, at most 63", 63),
]

#: The path of a file or a folder. No empty, `.` or `..` parts.
URI_PATH_PATTERN = r"(/([A-Za-z0-9_@=+,-][A-Za-z0-9._@=+,-]*|\.[A-Za-z0-9_@=+,-][A-Za-z0-9._@=+,-]*))+/?"
#: A file or a folder on a PersistentVolumeClaim.
CLAIM_URI_PATTERN = rf"pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?{URI_PATH_PATTERN}"

ClaimURI = Annotated[
    str,
    Text(
        CLAIM_URI_PATTERN,
        "this uri is not supported: write pvc://<claim>/<path>, a path on a PersistentVolumeClaim of the same"
        " namespace, of letters, digits and . _ @ = + , - and without .. in it",
        1024,
    ),
]

Digest = Annotated[
    str,
    Text(
        "sha256:[0-9a-f]{64}", "this digest is not supported: write sha256: and 64 lower-case hex digits", 71
    ),
]

Duration = Annotated[
    str,
    Text(
        r"([0-9]{1,6}(\.[0-9]{1,3})?(h|m|s|ms)){1,4}",
        "must be a duration of hours, minutes, seconds or milliseconds, such as 90s or 1m30s",
        40,
    ),
]

#: Anything; the API server looks at it when it becomes part of a pod.
Opaque = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]

Quantity = Annotated[
    int | str,
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 64}),
]

Quantities = Annotated[dict[Annotated[str, Field(max_length=317)], Quantity], Field(max_length=32)]

Line = Annotated[str, Field(max_length=32768)]


class EnvVar(Model):
    """An environment variable, as a container has it."""

    name: str = Field(description="Name of the variable.", min_length=1, max_length=256)
    value: str | None = Field(
        None, description="Its value; $(NAME) refers to a variable above.", max_length=32768
    )
    value_from: Opaque | None = Field(
        None,
        description="Where the value comes from: fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef.",
    )

    rules = (
        Rule(
            "!(has(self.value) && has(self.valueFrom))",
            "give value or valueFrom, not both",
            lambda self: self.value is None or self.value_from is None,
        ),
    )


class EnvFromSource(Model):
    """Variables from all keys of an object, as a container has it."""

    prefix: str | None = Field(None, description="Put before each name.", max_length=256)
    config_map_ref: Opaque | None = Field(None, description="A ConfigMap: name, optional.")
    secret_ref: Opaque | None = Field(None, description="A Secret: name, optional.")


class Resources(Model):
    """What each pod's main container asks for and may use."""

    requests: Quantities | None = Field(
        None, description="What is reserved, such as {cpu: 500m, memory: 1Gi}. Defaults to the limits."
    )
    limits: Quantities | None = Field(
        None, description="What may be used at most. Passing the memory limit ends the container."
    )


class Accelerator(Model):
    """The GPUs, or others of their kind, each pod gets."""

    type: (
        Annotated[
            str,
            Text(
                "[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?",
                "must be a label value: letters, digits and - _ . inside, at most 63",
                63,
            ),
        ]
        | None
    ) = Field(
        None,
        description=(
            "Which kind, such as nvidia-a100, nvidia-h100-80gb, nvidia-l4, nvidia-t4 or amd-mi300x. Pods go"
            " only to"
            " nodes that have it, known by any of the labels that clusters carry: accelerator=<type>,"
            " nvidia.com/gpu.product, amd.com/gpu.product-name, and those of GKE, EKS, Karpenter and AKS. A"
            " kind not"
            " known here is looked for as the label accelerator=<type>, which you can put on your nodes."
            " None: any."
        ),
    )
    count: int = Field(1, description="How many each pod gets.", ge=1, le=1024)
    resource: Annotated[
        str,
        Text(
            "[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?",
            "must be the name of an extended resource with its domain, such as nvidia.com/gpu or amd.com/gpu",
            317,
        ),
    ] = Field(
        "nvidia.com/gpu",
        description="The extended resource that is asked for, such as nvidia.com/mig-1g.10gb or amd.com/gpu.",
    )

    rules = (
        Rule(
            "!has(self.type) || !self.type.startsWith('amd-') || !self.resource.startsWith('nvidia.com/')",
            "an AMD accelerator is not offered as an nvidia.com resource: set resource to amd.com/gpu",
            lambda self: (
                not ((self.type or "").startswith("amd-") and self.resource.startswith("nvidia.com/"))
            ),
        ),
    )


#: For the resource that has both fields.
ACCELERATOR_ONCE = Rule(
    "!has(self.accelerator) || !has(self.resources) ||"
    " !((has(self.resources.limits) && self.accelerator.resource in self.resources.limits) ||"
    " (has(self.resources.requests) && self.accelerator.resource in self.resources.requests))",
    "the accelerator's resource is also in resources: say how many in accelerator.count only",
    lambda self: (
        self.accelerator is None
        or self.resources is None
        or self.accelerator.resource
        not in {**(self.resources.limits or {}), **(self.resources.requests or {})}
    ),
)

TEMPLATE = (
    "Overrides for the pods, as a pod template (metadata.labels, metadata.annotations, spec). It is merged"
    " into the"
    " generated one by key: containers, volumes, env and their like by name; tolerations are added; null"
    " removes."
)


class Condition(Model):
    """metav1.Condition."""

    type: str = Field(description="What it is about.", max_length=316)
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it is so.")
    reason: str = Field(description="Why, in one CamelCase word.", min_length=1, max_length=1024)
    message: str = Field(description="Why, in a sentence, and what to do.", max_length=32768)
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] = Field(
        description="When status last changed."
    )
    observed_generation: int | None = Field(
        None,
        description="The metadata.generation it was found at.",
        ge=0,
        json_schema_extra={"format": "int64"},
    )


Conditions = Annotated[
    list[Condition],
    Field(
        description="What is so and what is not, with reasons. `Ready` sums them up.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]
