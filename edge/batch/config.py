"""`[batch]` of edge.toml: which cluster, and what of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from protocol.study import Lane

__all__ = ["BatchConfig"]

_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class BatchConfig(BaseModel):
    """Where heavy work runs (docs/growing.md).

    Attributes:
        engine: `local` (a process of this machine), `slurm`, `htcondor`.
        lanes: whose workers go there; the others stay here.
        shared: a folder that nodes see under the same path, of the daemon's user alone (0700): one key a job lies in
            it until the node has it.
        cpus: of a node.
        time_limit_s: after which the cluster ends a job.
        partition, account: Slurm's.
        options: further words for `srun`, or `name=value` of a submit description; the site's own.
        conf: slurm.conf where it is not in its usual place.
        listen: HTCondor: `host:port` of this machine that nodes dial, inside the hospital's cluster; port 0: any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    engine: Literal["local", "slurm", "htcondor"] = "local"
    lanes: tuple[Lane, ...] = (Lane.ANONYMIZE, Lane.EXTRACT, Lane.TRAIN)
    shared: Path | None = None
    cpus: Annotated[int, Field(ge=1, le=1024)] = 1
    time_limit_s: Annotated[float, Field(ge=60, le=30 * 86_400)] = 86_400.0
    partition: _Word | None = None
    account: _Word | None = None
    options: Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=32)] = ()
    conf: Path | None = None
    listen: Annotated[str, Field(pattern=r"^[A-Za-z0-9.\-\[\]:]{1,255}:[0-9]{1,5}$")] | None = None

    @model_validator(mode="after")
    def _complete(self) -> BatchConfig:
        if self.engine != "local" and (self.shared is None or not self.shared.is_absolute()):
            raise ValueError("batch: shared names a folder by its whole path")
        if self.engine == "htcondor":
            if self.listen is None:
                raise ValueError("batch: htcondor needs listen")
            if any("=" not in option for option in self.options):
                raise ValueError("batch: options of a submit description are name=value")
        return self
