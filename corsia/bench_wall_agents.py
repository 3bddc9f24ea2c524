"""Many agents and one centre: what they cost it at rest, and whether all may come at once.

Agents at rest are the real uplink's stream and heartbeats; the whole centre runs (`corsia central serve`).
Those that come at once have their spools, journals and deliveries too, fifty in a process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from corsia.bench_consortium import processes, pss_mb
from corsia.bench_wall_centre import BenchCentre, Program, cpu_s
from corsia.fleet import Fleet

__all__ = ["AGENTS", "IDLE_SITES", "all_at_once", "idle_centre"]

AGENTS, IDLE_SITES = 200, 51
IDLE_S, SETTLE_S, HEARTBEAT_S = 60.0, 15.0, 10.0
_A_PROCESS = 50
_SMALL_BYTES = 2048
_SITE = "corsia.bench_wall_site"
Tell = Callable[[str], object]
Figures = dict[str, Any]


def idle_centre(root: Path, sites: int, tell: Tell = lambda _line: None, *, seconds: float = IDLE_S) -> Figures:
    """What the whole centre uses while agents have nothing to do.

    Returns:
        `cores_percent` of one core and `mb` (PSS) of all processes of the centre, and of each.
    """
    names = _names(sites)
    with Fleet(root) as fleet:
        fleet.start_centre(dict.fromkeys(names, "bench"))
        folders = [_enrolled(fleet, name) for name in names]
        programs = _programs(folders)
        try:
            for program in programs:
                program.begin("beat", seconds=seconds + SETTLE_S, every_s=HEARTBEAT_S)
            time.sleep(SETTLE_S)
            centre = {_name(command): pid for pid, command in processes(fleet.pids())}
            before = {name: cpu_s(pid) for name, pid in centre.items()}
            time.sleep(seconds)
            used = {name: 100 * (cpu_s(pid) - before[name]) / seconds for name, pid in centre.items()}
            memory = {name: round(pss_mb(pid), 1) for name, pid in centre.items()}
            beats = sum(program.end()["beats"] for program in programs)
        finally:
            for program in programs:
                program.close()
    made = {
        "sites": sites,
        "beats": beats,
        "cores_percent": round(sum(used.values()), 2),
        "mb": round(sum(memory.values()), 1),
        "percent": {name: round(value, 2) for name, value in used.items()},
        "process_mb": memory,
    }
    tell(f"idle: {made}")
    return made


def all_at_once(root: Path, sites: int, tell: Tell = lambda _line: None) -> Figures:
    """So many sites that connect and deliver a parcel at the same time.

    Returns:
        `delivered`, `refused` (codes, counted) and `seconds`.
    """
    names = _names(sites)
    with BenchCentre(root, names) as centre:
        tell(f"agents: {sites} enrolled")
        programs = _programs([centre.site(name) for name in names])
        try:
            ready = [program.ask("ready") for program in programs]
            connected = centre.connected()
            for program in programs:
                program.ask("hold", bytes=_SMALL_BYTES, count=1)
            began = time.monotonic()
            for program in programs:
                program.begin("deliver")
            replies = [program.end() for program in programs]
            seconds = time.monotonic() - began
        finally:
            for program in programs:
                program.close()
    failed = [code for reply in [*ready, *replies] for code in reply.get("failed", [])]
    made = {
        "sites": sites,
        "connected": connected,
        "delivered": sum(reply["count"] for reply in replies),
        "refused": {code: failed.count(code) for code in sorted(set(failed))},
        "seconds": round(seconds, 3),
    }
    tell(f"agents: {made}")
    return made


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"site-{number:03d}" for number in range(count))


def _name(command: Sequence[str]) -> str:
    """Which process of the centre a command is."""
    return next((word.partition(".")[2] for word in command if word.startswith("central.")), "supervisor")


def _programs(folders: Sequence[Path]) -> list[Program]:
    """The sites' processes, started together."""
    return [Program(_SITE, *map(str, folders[at : at + _A_PROCESS])) for at in range(0, len(folders), _A_PROCESS)]


def _enrolled(fleet: Fleet, name: str) -> Path:
    """A site's state folder, enrolled over the real wire."""
    from central import ipc
    from central.config import load_config, operator_token
    from edge.identity import enrol

    config = load_config(fleet.central_toml)
    reply = ipc.call(config.socket("signer"), "invite", token=operator_token(config), site=name)
    folder = fleet.out / "sites" / name
    enrol(name, folder, str(reply["code"]))
    return folder
