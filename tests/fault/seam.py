"""The seam: every change that the code under test makes to a disk or a database, counted, and one of them gone wrong.

Within `Seam(root)` each step below `root` is counted: a file made, written, cut, synced, renamed or removed, a folder
made, removed or synced, a statement that changes a database, a commit. The step of number `at`

- `CUT`: is the last. The process is dead: this and all further steps raise `PowerCut`, also those of clean-up code.
  `lose()` then plays the power cut: what was never synced is gone, names that no folder's sync kept are as before.
- `FAIL`: fails once with an error of the disk; a write fails half way.
- `STUCK`: fails, and every step after it, as on a disk that went read-only or is full, until `heal()`.
- `KILL`: the process (a child of the test) is killed by SIGKILL.

Product code needs no hook: the names of `os`, `io` and `sqlite3` that it calls are exchanged. SQLite writes below them;
there the steps are statements and commits, and what SQLite does within is SQLite's.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

__all__ = ["Mode", "PowerCut", "Seam"]


class PowerCut(BaseException):
    """The machine stops here."""


class Mode(Enum):
    CUT = "cut"
    FAIL = "fail"
    STUCK = "stuck"
    KILL = "kill"


_CHANGES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "COMMIT")
_REAL = {name: getattr(os, name) for name in
         ("open", "write", "fsync", "rename", "replace", "unlink", "remove", "mkdir", "rmdir", "ftruncate",
          "fdopen", "posix_fadvise")}  # fmt: skip
_IO_OPEN, _CONNECT = io.open, sqlite3.connect


class _File(io.RawIOBase):
    """A raw file whose writes are steps."""

    def __init__(self, seam: Seam, handle: int) -> None:
        self._seam, self._handle = seam, handle

    def fileno(self) -> int:
        return self._handle

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return os.lseek(self._handle, 0, os.SEEK_CUR)

    def write(self, data: Any) -> int:
        return self._seam.write(self._handle, bytes(data))

    def close(self) -> None:
        if not self.closed:
            try:
                super().close()
            finally:
                os.close(self._handle)


class Seam:
    """Watches the changes below a folder. For one thread.

    Args:
        root: what is watched.
        at: the step that goes wrong, from 1; 0 for none.
        error: errno of `FAIL` and `STUCK`.

    A test that goes on after a fault asserts `struck`: what ended early for another reason was not disturbed.
    """

    active: Seam | None = None  # within whose `with` we are

    def __init__(self, root: Path, at: int = 0, mode: Mode = Mode.CUT, error: int = errno.ENOSPC) -> None:
        self.root, self.at, self.mode, self.error = root.resolve(), at, mode, error
        self.steps: list[str] = []
        self.dead = self.stuck = False
        self.struck = ""  # the step that went wrong, once it has
        self._shadow = Path(tempfile.mkdtemp(dir=self.root.parent, prefix=".shadow"))
        self._synced: dict[int, int] = {}  # inode of a file written to -> bytes that are durable
        self._undo: list[tuple[int, Callable[[], None]]] = []  # (inode of the folder, how it was before), oldest first

    def __enter__(self) -> Seam:
        Seam.active = self
        for name in ("fsync", "unlink", "rmdir", "ftruncate"):
            setattr(os, name, getattr(self, name))
        os.open, os.write, os.fdopen, os.mkdir = self._open, self.write, self._fdopen, self._mkdir  # type: ignore[assignment]
        os.rename, os.replace, os.remove = self._rename, self._replace, self.unlink  # type: ignore[assignment]
        builtins.open = io.open = self._io_open  # type: ignore[assignment]
        sqlite3.connect = self._connect  # type: ignore[assignment]
        event.listen(sqlalchemy.Engine, "before_cursor_execute", self._statement)
        event.listen(sqlalchemy.Engine, "commit", self._commit)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        Seam.active = None
        for name, real in _REAL.items():
            setattr(os, name, real)
        builtins.open = io.open = _IO_OPEN
        sqlite3.connect = _CONNECT
        event.remove(sqlalchemy.Engine, "before_cursor_execute", self._statement)
        event.remove(sqlalchemy.Engine, "commit", self._commit)
        if not self.dead:
            shutil.rmtree(self._shadow)

    def heal(self) -> None:
        """The disk can be written to again."""
        self.stuck, self.at = False, 0

    def lose(self) -> None:
        """The power cut: nothing stays but what was synced. To be called outside, after the process is gone."""
        for _folder, undo in reversed(self._undo):
            undo()
        for path in self.root.rglob("*"):
            if path.is_file() and (size := self._synced.get(path.stat().st_ino)) is not None and not _sqlite(path):
                os.truncate(path, min(size, path.stat().st_size))

    # --- steps

    def step(self, what: str, half: Callable[[], object] = lambda: None) -> None:
        """Count one, and let it go wrong if it is its turn; `half` is what is done of it all the same."""
        if self.dead:
            raise PowerCut
        if self.stuck:
            raise OSError(self.error, os.strerror(self.error))
        self.steps.append(what)
        if len(self.steps) != self.at:
            return
        self.struck = what
        half()
        if self.mode is Mode.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mode is Mode.CUT:
            self.dead = True
            raise PowerCut
        self.stuck = self.mode is Mode.STUCK
        raise OSError(self.error, os.strerror(self.error))

    def write(self, handle: int, data: Any) -> int:
        """`os.write`."""
        if not self._watched(path := _path(handle)):
            return _REAL["write"](handle, data)
        self.step(f"write {path.name}", lambda: _REAL["write"](handle, bytes(data)[: len(data) // 2]))
        return _REAL["write"](handle, data)

    def fsync(self, handle: int) -> None:
        """`os.fsync`."""
        if self._watched(path := _path(handle)):
            self.step(f"fsync {path.name}")
            found = os.fstat(handle)
            if path.is_dir():
                self._undo = [(folder, undo) for folder, undo in self._undo if folder != found.st_ino]
            elif found.st_ino in self._synced:
                self._synced[found.st_ino] = found.st_size
            return  # the disk's own cache is what is played here: no need to wait for the real one
        _REAL["fsync"](handle)

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        """`os.unlink`."""
        full = _full(path, dir_fd)
        if self._watched(full) and os.path.lexists(full):
            self.step(f"unlink {full.name}")
            kept = self._keep(full)
            self._undo.append((_inode(full.parent), lambda: _back(kept, full)))
        _REAL["unlink"](path, dir_fd=dir_fd)

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        """`os.rmdir`: never undone, since what was in it is."""
        if self._watched(full := _full(path, dir_fd)):
            self.step(f"rmdir {full.name}")
            self._undo.append((_inode(full.parent), lambda: full.mkdir(exist_ok=True)))
        _REAL["rmdir"](path, dir_fd=dir_fd)

    def ftruncate(self, handle: int, size: int) -> None:
        """`os.ftruncate`."""
        if self._watched(path := _path(handle)):
            self.step(f"truncate {path.name}")
        _REAL["ftruncate"](handle, size)

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        full = _full(path, dir_fd)
        if self._watched(full) and flags & (os.O_WRONLY | os.O_RDWR):
            new = not full.exists()
            if (new and flags & os.O_CREAT) or self.stuck or self.dead:
                self.step(f"create {full.name}")
            handle = _REAL["open"](path, flags, mode, dir_fd=dir_fd)
            self._writes(full, handle, new)
            return int(handle)
        return int(_REAL["open"](path, flags, mode, dir_fd=dir_fd))

    def _writes(self, full: Path, handle: int, new: bool) -> None:
        found = os.fstat(handle)
        self._synced.setdefault(found.st_ino, 0 if new else found.st_size)
        if new and not _sqlite(full):
            self._undo.append((_inode(full.parent), lambda: full.unlink(missing_ok=True)))

    def _fdopen(self, handle: int, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        if not set(mode) & set("wax+") or not self._watched(_path(handle)):
            return _IO_OPEN(handle, mode, buffering, *args, **kwargs)
        raw = _File(self, handle)
        if buffering == 0:
            return raw
        return io.BufferedWriter(raw) if "b" in mode else io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")

    def _io_open(self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, int):
            return self._fdopen(file, mode, buffering, *args, **kwargs)
        if not set(mode) & set("wax+") or not self._watched(_full(file)):
            return _IO_OPEN(file, mode, buffering, *args, **kwargs)
        kind = next((c for c in mode if c in "wax"), "")
        flags = os.O_RDWR | {"w": os.O_CREAT | os.O_TRUNC, "a": os.O_APPEND, "x": os.O_CREAT | os.O_EXCL, "": 0}[kind]
        if (opener := kwargs.get("opener")) is not None:  # a temporary file's, which makes it
            return self._fdopen(opener(os.fspath(file), flags), mode, buffering)
        return self._fdopen(self._open(file, flags, 0o666), mode, buffering)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if self._watched(full := _full(path, dir_fd)) and not full.exists():
            self.step(f"mkdir {full.name}")
        _REAL["mkdir"](path, mode, dir_fd=dir_fd)

    def _rename(self, source: Any, target: Any) -> None:
        self._renamed("rename", _full(source), _full(target))

    def _replace(self, source: Any, target: Any) -> None:
        self._renamed("replace", _full(source), _full(target))

    def _renamed(self, name: str, source: Path, target: Path) -> None:
        if not self._watched(target):
            _REAL[name](source, target)
            return
        self.step(f"{name} {source.name} {target.name}")
        kept = self._keep(target)
        _REAL[name](source, target)

        def undo() -> None:
            if os.path.lexists(target):  # else a later name of it is durable, and so is that it left this one
                os.rename(target, source)
            _back(kept, target)

        self._undo.append((_inode(target.parent), undo))

    # --- databases

    def _connect(self, database: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._watched(_full(database)) or "factory" in kwargs or kwargs.get("isolation_level", "") is not None:
            return _CONNECT(database, *args, **kwargs)
        seam, name = self, Path(database).name

        class Watched(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> Any:
                seam._sql(sql, name)
                return super().execute(sql, *values)

        return _CONNECT(database, *args, factory=Watched, **kwargs)

    def _sql(self, sql: str, name: str) -> None:
        verb = sql.lstrip().split(" ", 1)[0].upper()
        if verb in _CHANGES:
            try:
                self.step(f"{verb.lower()} {name}")
            except OSError as error:
                raise _database_error(error) from None

    def _statement(self, connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if self._watched(Path(connection.engine.url.database or "/")):
            try:
                self._sql(statement, "database")
            except sqlite3.Error as error:  # as the library that is between would tell it
                raise OperationalError(statement, None, error) from None

    def _commit(self, connection: Any) -> None:
        if not connection.get_execution_options().get("read"):
            self._statement(connection, None, "COMMIT")

    # --- inside

    def _watched(self, path: Path) -> bool:
        return path.is_relative_to(self.root)

    def _keep(self, path: Path) -> Path | None:
        """A second name for what is about to be removed or replaced."""
        if not path.is_file() or path.is_symlink():
            return None
        kept = self._shadow / str(len(os.listdir(self._shadow)))
        os.link(path, kept)
        return kept


def _database_error(error: OSError) -> sqlite3.OperationalError:
    full = error.errno == errno.ENOSPC
    made = sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
    made.sqlite_errorname = "SQLITE_FULL" if full else "SQLITE_IOERR"
    return made


def _back(kept: Path | None, path: Path) -> None:
    if kept is not None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(kept, path)


def _full(path: Any, dir_fd: int | None = None) -> Path:
    text = os.fsdecode(path)
    return Path(os.path.abspath(text)) if dir_fd is None else _path(dir_fd) / text


def _path(handle: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{handle}"))


def _inode(folder: Path) -> int:
    return folder.stat().st_ino


def _sqlite(path: Path) -> bool:
    return path.name.endswith((".db", ".db-wal", ".db-shm", ".db-journal"))
