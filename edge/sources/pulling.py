"""Pulling a dataset's places into its mirrors: which place goes where, and asking again while one does not answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edge.sources.mirror import Mirror, Tally
from edge.sources.origin import Origin
from edge.sources.turns import pulling
from protocol.errors import UnavailableError

if TYPE_CHECKING:
    from edge.sources import DatasetConfig
    from edge.sources.places import Pulled

__all__ = ["Place", "pause_s", "places", "pull"]

_LONGEST_WAIT_S = 10.0
_ROUNDS = 4  # of one pull, while the place refuses records that it lists


class Dial(Protocol):
    """Makes an origin."""

    def __call__(self, halted: Callable[[], bool], folder: Path | None = None, /) -> Origin: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One place of one dataset.

    Attributes:
        name: of the place, as edge.toml calls it.
        kind: `dicom` or `fhir`: of which mirror it is.
        config: how it is pulled.
        dial: makes the origin; asked whether to stop, and told a private folder for what is on its way.
    """

    name: str
    kind: str
    config: Pulled
    dial: Dial


def places(dataset: DatasetConfig) -> Iterator[Place]:
    """The places that a dataset is pulled from; a receiver is none."""
    if (dicomweb := dataset.dicomweb) is not None:
        from edge.sources.dicomweb import DicomwebOrigin

        yield Place(
            name="dicomweb", kind="dicom", config=dicomweb, dial=lambda _halted, _folder=None: DicomwebOrigin(dicomweb)
        )
    if (dimse := dataset.dimse) is not None:
        from edge.sources.dimse import DimseOrigin

        yield Place(
            name="dimse", kind="dicom", config=dimse, dial=lambda _halted, folder=None: DimseOrigin(dimse, folder)
        )
    if (server := dataset.fhir_server) is not None:
        if server.mode == "search":
            from edge.sources.fhirserver import FhirSearch

            yield Place(
                name="fhir_server", kind="fhir", config=server, dial=lambda _halted, _folder=None: FhirSearch(server)
            )
        else:
            from edge.sources.fhirexport import FhirExport

            yield Place(
                name="fhir_server",
                kind="fhir",
                config=server,
                dial=lambda halted, folder=None: FhirExport(server, halted, folder),
            )


def pull(
    root: Path,
    place: Place,
    *,
    halted: Callable[[], bool] = lambda: False,
    full: bool = False,
    emptied: bool = False,
) -> Tally:
    """Pull a place to its end, asking again while it does not answer, for as long as its patience lasts.

    What has come counts: patience begins anew with each pull that brought something. For `full` and `emptied` see
    `Mirror.pull`.

    Raises:
        UnavailableError: `unavailable.source` when patience is over; the next pull goes on where this one stood.
        Halted: when asked to; ConflictError: `conflict.running`; what else `Mirror.pull` raises.
    """
    with pulling(root):
        mirror = Mirror(root, max_bytes=place.config.max_bytes)
        try:
            return _patient(mirror, place, halted, full=full, emptied=emptied)
        finally:
            mirror.close()


def _patient(mirror: Mirror, place: Place, halted: Callable[[], bool], *, full: bool, emptied: bool) -> Tally:
    delay, since, whole, rounds = 0.25, time.monotonic(), Tally(), 0
    while True:
        before = mirror.status()["records"]
        try:
            tally = mirror.pull(
                place.dial(halted, mirror.incoming), halted, full=full, emptied=emptied, place=place.name
            )
            whole.isolated.update(tally.isolated)
            whole.gone += tally.gone
            rounds += 1
            if not tally.refused or rounds >= _ROUNDS:
                whole.refused = tally.refused
                return whole
            error: UnavailableError | None = None
        except UnavailableError as unavailable:
            error = unavailable
        finally:
            now = mirror.status()["records"]
            whole.kept += now - before
        if now > before:
            since, delay = time.monotonic(), 0.25
        if error is not None and time.monotonic() - since >= place.config.patience_s:
            raise error
        _wait(pause_s(delay, error.retry_s if error else 0.0), halted)
        delay = min(2 * delay, _LONGEST_WAIT_S)


def pause_s(delay: float, told: float) -> float:
    """How long to wait: about `delay`, not the same each time, and never less than the place has told."""
    return max(delay * random.uniform(0.5, 1.0), told)  # noqa: S311 - jitter


def _wait(seconds: float, halted: Callable[[], bool]) -> None:
    from edge.sources.mirror import Halted

    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if halted():
            raise Halted
        time.sleep(min(left, 0.1))
