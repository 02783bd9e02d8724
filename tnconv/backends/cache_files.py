"""Files that keep what was measured on this machine: the rates of `tnconv calibrate`, the winners of autotuning.

A cache saves time and is never a reason to fail. What cannot be read counts as not there, what cannot be written is
kept in the process, and a `CacheWarning` says so once for each file. A file is exchanged as a whole, so that another
process never reads half of it, and under a lock on the folder, so that two that write at once lose nothing.
"""

import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tnconv.errors import CacheWarning

try:
    import fcntl
except ImportError:  # Windows: the last writer wins
    fcntl = None  # type: ignore[assignment]

Entry = TypeVar("Entry", bound=msgspec.Struct)

_PATIENCE = 1.0  # seconds that a lock is waited for
_VARIABLE = "set TNCONV_CACHE to a folder of yours"

_unwritten: dict[Path | str, dict[str, Any]] = {}
_warned: set[tuple[str, Path | str]] = set()


def folder() -> Path:
    """The folder of what is measured on this machine: `$TNCONV_CACHE`, or `tnconv` in the user's cache folder.

    Raises:
        FileNotFoundError: no variable names a folder, and the user has no home.
    """
    own = os.environ.get("TNCONV_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "tnconv"
    except RuntimeError as error:  # a container may run as a user that nobody has entered
        raise FileNotFoundError(str(error)) from error


def read(name: str, kind: type[Entry]) -> dict[str, Entry]:
    """The entries of a file by key; those that cannot be read are left out, with a warning.

    Args:
        name: of the file in the folder.
        kind: what every entry is.
    """
    path = path_of(name)
    found: dict[str, Entry] = {}
    if isinstance(path, Path):
        found, fault = _decoded(path, kind)
        if fault is not None:
            _warn(
                "cannot be read", path, fault, "go on without it; delete the file, or let it be written anew"
            )
    return found | _unwritten.get(path, {})


def remember(name: str, entries: Mapping[str, Entry], kind: type[Entry]) -> None:
    """Add entries to a file; where it cannot be written they are kept as long as the process runs, with a warning.

    Args:
        name: of the file in the folder.
        entries: by key; they replace those of the same key.
        kind: what every entry is.
    """
    path = path_of(name)
    pending = _unwritten.pop(path, {}) | dict(entries)
    try:
        write(name, pending, kind)
    except OSError as error:
        _unwritten[path] = pending
        _warn("cannot be written", path, error, f"it is kept in this process only; {_VARIABLE}")


def write(name: str, entries: Mapping[str, Entry], kind: type[Entry]) -> Path:
    """Add entries to a file, as `remember` does.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written.
    """
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        known, _ = _decoded(path, kind)
        _exchange(path, msgspec.json.format(msgspec.json.encode(known | dict(entries))))
    return path


def path_of(name: str) -> Path | str:
    """The file; its bare name where there is no folder."""
    try:
        return folder() / name
    except OSError:
        return name


def _decoded(path: Path, kind: type[Entry]) -> tuple[dict[str, Entry], Exception | None]:
    """The entries of a file that can be read, and what is wrong with the file or with the first other entry."""
    found: dict[str, Entry] = {}
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
    except (FileNotFoundError, NotADirectoryError):  # who writes there is told
        return found, None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        return found, error
    fault: Exception | None = None
    for key, text in raw.items():
        try:
            found[key] = msgspec.json.decode(text, type=kind)
        except (ValueError, RecursionError) as error:
            fault = fault or error
    return found, fault


def _exchange(path: Path, content: bytes) -> None:
    """Write a file beside the old one, and put it in its place; nothing is left of it where that fails."""
    made = path.with_name(f"{path.stem}.{os.getpid()}.{time.time_ns()}.tmp")
    try:
        made.write_bytes(content)
        os.replace(made, path)
    except BaseException:
        with suppress(OSError):
            made.unlink()
        raise


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Hold the lock of a folder, where the system has one that comes in time; else go on without."""
    handle = None
    with suppress(OSError):
        handle = os.open(place, os.O_RDONLY)
    try:
        if handle is not None and fcntl is not None:
            _wait(handle)
        yield
    finally:
        if handle is not None:
            os.close(handle)  # and the lock is gone


def _wait(handle: int) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                return
            time.sleep(0.002)
        except OSError:  # a file system without locks
            return


def _warn(what: str, path: Path | str, fault: Exception, remedy: str) -> None:
    """Say once for a file what is wrong with it."""
    if (what, path) in _warned:
        return
    _warned.add((what, path))
    warnings.warn(f"cache file {str(path)!r} {what}: {fault}; {remedy}", CacheWarning, stacklevel=3)
