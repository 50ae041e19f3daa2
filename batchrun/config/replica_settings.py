"""`[replica]`: the shared log of a batch."""

from typing import Annotated

from pydantic import Field

from batchrun.config.section import Name, Section


class ReplicaConfig(Section):
    """The shared log of the batch, from which another machine can take it over."""

    url: Name | None = None
    """Where the log is kept, for this batch alone: s3://bucket/path, gs://, az://, nats://host:4222/name, file:///path."""
    lease_s: Annotated[float, Field(gt=0)] = 20.0
    """Seconds of silence after which this machine starts nothing more; another one takes over after 1.5 times that."""
    standby: bool = True
    """Whether to wait while another machine carries the batch out; false refuses to."""
