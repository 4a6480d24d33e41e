"""What enginepress sets on a model's config: typed, so that a wrong value is found before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class InstanceGroup:
    """How many copies of a model run, and where."""

    kind: Literal["KIND_CPU", "KIND_GPU", "KIND_MODEL"]
    count: int = 1
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Queue:
    """How requests wait for a model whose template batches them.

    Attributes:
        max_delay_us: how long Triton may wait for more requests to batch, microseconds.
        max_size: requests that may wait; 0 means any number.
    """

    max_delay_us: int = 0
    max_size: int = 0


@dataclass(frozen=True)
class ConfigValues:
    """What enginepress sets on a template's config. None leaves what the template says.

    Version numbers are not here: only `place` writes them.

    Attributes:
        name: Triton's name of the model, which is also its folder's.
        parameters: string parameters for the backend; they join those of the template.
        queue: goes with `max_batch_size`, which becomes the preferred batch size.
        data_types: tensor -> TYPE_…, for every input and output of that name that the template has.
        steps: ensembles: the model that each step runs, by the template's name for it.
    """

    name: str
    max_batch_size: int | None = None
    decoupled: bool | None = None
    instance_group: InstanceGroup | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    queue: Queue | None = None
    data_types: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, str] = field(default_factory=dict)
