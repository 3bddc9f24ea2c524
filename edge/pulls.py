"""The daemon's work at the hospital's own servers: each place is pulled by a thread of its own, receivers listen.

Nothing leaves by it. A place that does not answer delays nobody: studies read what has been pulled to its end, and one
that never has been is waited for by its own studies alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from edge.jobs import crashed
from edge.sources.mirror import Halted, Mirror, Tally
from edge.sources.places import mirror_root
from edge.sources.pulling import Place, places, pull
from protocol.errors import ConflictError, CorsiaError

if TYPE_CHECKING:
    from edge.config import DatasetConfig
    from edge.site import Site

__all__ = ["works"]

_AGAIN_S = 30.0
_log = logging.getLogger("edge.agent")


def works(site: Site) -> tuple[Callable[[], None], ...]:
    """One function a place and a receiver, each for a thread of the daemon; they return when it stops."""
    made: list[Callable[[], None]] = []
    for name, dataset in site.config.datasets.items():
        made += [partial(_pull, site, name, place) for place in places(dataset)]
        if dataset.receiver is not None:
            made.append(partial(_listen, site, name, dataset))
    return tuple(made)


def _pull(site: Site, dataset: str, place: Place) -> None:
    """Pull a place again and again. A failure is logged by its code and tried again."""
    root = mirror_root(site.config.state_dir, dataset, place.kind)
    while not site.stop.is_set():
        pause = place.config.every_s
        try:
            _tell(dataset, pull(root, place, halted=site.stop.is_set))
        except Halted:
            return
        except ConflictError:  # the other place of this mirror, or `corsia edge dataset pull`
            pause = 1.0
        except CorsiaError as error:
            site.note("source.failed", error)
            pause = min(pause, _AGAIN_S)
        except Exception as error:  # what a server sends must not end the daemon; types and lines are logged
            crashed("source.crashed", error)
            pause = _AGAIN_S
        site.stop.wait(pause)


def _tell(dataset: str, tally: Tally) -> None:
    counts = {"kept": tally.kept, "gone": tally.gone, "isolated": tally.isolated.total(), "refused": tally.refused}
    if any(counts.values()):
        _log.info("source.pulled", extra={"fields": {"dataset": dataset, "counts": counts}})


def _listen(site: Site, name: str, dataset: DatasetConfig) -> None:
    from edge.sources.receiver import Listening

    place = dataset.receiver
    if place is None:
        return
    while not site.stop.is_set():
        try:
            mirror = Mirror(mirror_root(site.config.state_dir, name, "dicom"), max_bytes=place.max_bytes)
            try:
                listening = Listening(place, mirror, alone=not any(one.kind == "dicom" for one in places(dataset)))
                site.stop.wait()
                listening.close()
            finally:
                mirror.close()
        except CorsiaError as error:
            site.note("source.failed", error)
            site.stop.wait(_AGAIN_S)
