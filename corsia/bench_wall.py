"""`corsia bench wall`: what the way across the wall costs, over what the same bytes cost without it.

Real processes on loopback: sites with their uplink, spool and journal, the gateway, and an opener in the vault's place.
Floors are plain mutual TLS between two processes of this Python, measured before and after in the same run, the better
one taken. Payloads go as the product sends them: sealed in parts of 32 MiB, several in flight.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from corsia.bench_wall_agents import AGENTS, IDLE_SITES, all_at_once, idle_centre
from corsia.bench_wall_centre import BenchCentre, Program, cpu_s, peak_mb
from corsia.bench_wall_certificate import write_credentials
from corsia.bench_wall_floor import floor
from edge.identity import Identity
from edge.sealing import PART_BYTES
from protocol.errors import UnavailableError

__all__ = ["SIZE_BYTES", "bench_wall"]

SIZE_BYTES = 2 << 30
SMALL, SMALL_BYTES, SMALL_SITES, SMALL_PROCESSES = 4096, 2048, 4, 2
_REPEATS = 3
_SITE, _OPEN = "corsia.bench_wall_site", "corsia.bench_wall_open"
_SHM = Path("/dev/shm")  # noqa: S108 - memory, under a folder of our own
Tell = Callable[[str], object]
Figures = dict[str, Any]


def bench_wall(
    tell: Tell = lambda _line: None,
    *,
    size_bytes: int = SIZE_BYTES,
    small: int = SMALL,
    repeats: int = _REPEATS,
    folder: Path | None = None,
    idle: int = IDLE_SITES,
    agents: int = AGENTS,
) -> Figures:
    """Every figure of the command.

    Args:
        tell: called with a line of progress.
        size_bytes: payload of the two ratios.
        small: how many small parcels.
        repeats: how often each of the two ratios is measured, floor beside it; the best of each counts.
        folder: on whose disk; the system's temporary folder when None.
        idle: so many agents at rest; 0 leaves it out.
        agents: so many that connect and deliver at once; 0 leaves it out.

    Returns:
        `ratio_to_raw` and `ratio_to_durable` (1 is as fast as the floor), `small_per_s`, `peak_rss_mb` (the largest of
        site, gateway and opener on the durable way; in memory parcels are held on purpose) and what they are made of.
    """
    part = min(PART_BYTES, max(1 << 20, size_bytes // 8))
    size = -(-size_bytes // part) * part
    memory = _memory(size)
    with TemporaryDirectory(prefix="corsia-wall-", dir=folder) as disk:
        root = Path(disk)
        with TemporaryDirectory(prefix="corsia-wall-", dir=memory or disk) as fast:
            raw = _ratio(Path(fast), size, part, repeats, tell, disk=False)
        durable = _ratio(root / "durable", size, part, repeats, tell, disk=True)
        many = _small(root / "small", small, tell)
        resting = idle_centre(root / "idle", idle, tell) if idle else None
        crowd = all_at_once(root / "crowd", agents, tell) if agents else None
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": round(os.getloadavg()[0], 2)},
        "size_bytes": size,
        "in_memory": memory is not None,
        "ratio_to_raw": raw["ratio"],
        "ratio_to_durable": durable["ratio"],
        "small_per_s": many["per_s"],
        "peak_rss_mb": max(durable["peak_mb"].values()),
        "raw": raw,
        "durable": durable,
        "small": many,
        "idle": resting,
        "agents": crowd,
    }


def _memory(size_bytes: int) -> Path | None:
    """A folder in memory with room for what lands; None where there is none."""
    room = _SHM.is_dir() and shutil.disk_usage(_SHM).free > size_bytes + (256 << 20)
    return _SHM if room and os.access(_SHM, os.W_OK) else None


def _ratio(root: Path, size: int, part: int, repeats: int, tell: Tell, *, disk: bool) -> Figures:
    """The product's way beside the floor, taking turns."""
    ours, floors = [], []
    floor_cpu = 0.0
    gateway = "central.gateway" if disk else "corsia.bench_wall_memory"
    with BenchCentre(root / "centre", ("site-00",), gateway) as centre:
        folder = centre.site("site-00")
        credentials = write_credentials(root / "credentials")
        sender = Identity.load(folder).key.public.to_base64()
        site = Program(_SITE, str(folder))
        opener = Program(_OPEN, str(centre.key_file), sender, str(centre.landing))
        try:
            site.ask("ready")
            pids = {"site": site.pid, "gateway": centre.processes["gateway"].pid, "opener": opener.pid}
            before = {name: cpu_s(pid) for name, pid in pids.items()}
            for _ in range(repeats):
                spent = _children_cpu_s()
                floors.append(floor(root, credentials, size, disk=disk))
                floor_cpu += _children_cpu_s() - spent
                began = time.monotonic()
                if disk:
                    opener.begin("open", total=size)
                    _done(site.ask("hold", bytes=part, count=size // part))
                    _done(site.ask("deliver"))
                    opener.end()
                else:
                    _done(site.ask("stream", bytes=part, total=size))
                ours.append(time.monotonic() - began)
                tell(f"{'durable' if disk else 'raw'}: floor {floors[-1]:.2f} s, ours {ours[-1]:.2f} s")
            used = {name: round((cpu_s(pid) - before[name]) * 1e9 / size / repeats, 2) for name, pid in pids.items()}
            peaks = {name: round(peak_mb(pid), 1) for name, pid in pids.items()}
        finally:
            site.close()
            opener.close()
    return {
        "ratio": round(min(floors) / min(ours), 3),
        "floor_mb_s": round(size / min(floors) / 1e6, 1),
        "mb_s": round(size / min(ours) / 1e6, 1),
        "floor_s": [round(value, 3) for value in floors],
        "s": [round(value, 3) for value in ours],
        "cpu_s_per_gb": {**used, "floor": round(floor_cpu * 1e9 / size / repeats, 2)},
        "peak_mb": peaks,
    }


def _children_cpu_s() -> float:
    """CPU seconds of the processes that this one has waited for."""
    used = os.times()
    return used.children_user + used.children_system


def _done(reply: Figures) -> None:
    if reply["failed"]:
        raise UnavailableError("unavailable.process", f"a site of the benchmark failed: {reply['failed'][0]}")


def _small(root: Path, count: int, tell: Tell) -> Figures:
    """Small parcels of several sites at once, from their spools to verified receipts."""
    names = tuple(f"site-{number:02d}" for number in range(SMALL_SITES))
    each = max(1, count // SMALL_SITES)
    with BenchCentre(root, names) as centre:
        step = SMALL_SITES // SMALL_PROCESSES
        programs = [
            Program(_SITE, *(str(centre.site(name)) for name in names[at : at + step]))
            for at in range(0, SMALL_SITES, step)
        ]
        try:
            for program in programs:
                program.ask("hold", bytes=SMALL_BYTES, count=each)
            tell(f"small: {each * SMALL_SITES} parcels sealed")
            pids = {"gateway": [centre.processes["gateway"].pid], "sites": [program.pid for program in programs]}
            before = {name: sum(map(cpu_s, some)) for name, some in pids.items()}
            began = time.monotonic()
            for program in programs:
                program.begin("deliver")
            replies = [program.end() for program in programs]
            seconds = time.monotonic() - began
            used = {name: sum(map(cpu_s, some)) - before[name] for name, some in pids.items()}
        finally:
            for program in programs:
                program.close()
    landed = sum(reply["count"] for reply in replies)
    made = {
        "per_s": round(landed / seconds, 1),
        "parcels": landed,
        "seconds": round(seconds, 3),
        "sites": SMALL_SITES,
        "cpu_ms_a_parcel": {name: round(1000 * value / landed, 3) for name, value in used.items()},
    }
    tell(f"small: {made}")
    return made
