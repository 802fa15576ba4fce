"""Lets a Python program in a sandbox notice that it was restored from a snapshot, and repairs what can
be repaired in its process:

    import torpor_restore

    @torpor_restore.on_restore
    def renew(restore):
        numpy.random.seed(int(restore.token, 16) % 2**32)

A snapshot copies a process with its random generators, so that copies of it draw the same numbers.
Nothing in a process can feel that. The sandbox therefore changes a file with every restore, before any
process runs on, and this module watches it. At a change it gives the module `random` and OpenSSL a fresh
seed from the kernel, and calls back. Importing it is enough for that. Outside a sandbox there is no such
file, and nothing ever happens. `secrets`, `os.urandom` and `uuid.uuid4` ask the kernel each time and need
no help. A virtual environment does not see the system's modules: give it this file, or make it with
--system-site-packages.

What cannot be repaired:
  - Numbers that are drawn between the restore and the watching thread's turn come from the old seed.
    Whoever cannot have that calls `check_restored()` right before drawing, some microseconds.
  - Generators with a state of their own: instances of `random.Random`, those of NumPy and others, copies
    of OpenSSL within a wheel. Seed them in a callback.
  - What the program made of random numbers before: keys, session ids, node ids.
"""

import ctypes
import os
import random
import re
import sys
import threading
from typing import Callable, List, NamedTuple, Optional

try:
    import ssl
except ImportError:
    ssl = None

__all__ = ["Restore", "check_restored", "on_restore"]


class Restore(NamedTuple):
    # Grows with every restore of this sandbox.
    generation: int
    # 32 hex digits; differs between all copies of one snapshot.
    token: str


_path = os.environ.get("TORPOR_GENERATION_FILE", "/run/torpor/generation")
# The file holds one line; a longer one is not of ours.
_LINE_BYTES_MAX = 128
_LINE = re.compile(rb"(\d+) ([0-9a-f]{32})\n")
_SEED_BYTES = 64
_IN_MODIFY = 0x2
_IN_CLOEXEC = 0o2000000

_callbacks: List[Callable[[Restore], object]] = []
_lock = threading.RLock()
_file: Optional[int] = None
_inotify: Optional[int] = None
_seen_line = b""


def on_restore(callback: Callable[[Restore], object]) -> Callable[[Restore], object]:
    """Calls `callback` after each restore from now on, when `random` and OpenSSL are renewed.

    It is called in the thread that noticed: the watching one, or one in `check_restored()`.
    """
    with _lock:
        _callbacks.append(callback)
    return callback


def check_restored() -> Optional[Restore]:
    """Looks at once whether there was a restore that has not been noticed yet.

    If so, all that is done at a restore is done before this returns, or has been by another thread.
    """
    global _seen_line
    with _lock:
        line = _read_line()
        match = _LINE.fullmatch(line)
        if line == _seen_line or match is None:
            return None
        _seen_line = line
        _renew_generators()
        restore = Restore(int(match[1]), match[2].decode())
        _call_back(restore)
        return restore


def _renew_generators() -> None:
    random.seed(os.urandom(_SEED_BYTES))
    if ssl is not None:
        ssl.RAND_add(os.urandom(_SEED_BYTES), _SEED_BYTES)


def _call_back(restore: Restore) -> None:
    """One that raises does not keep the others from being called."""
    failure = None
    for callback in list(_callbacks):
        try:
            callback(restore)
        except Exception as error:
            error.__context__ = failure
            failure = error
    if failure is not None:
        raise failure


def _read_line() -> bytes:
    return b"" if _file is None else os.pread(_file, _LINE_BYTES_MAX, 0)


def _start() -> None:
    global _file, _inotify, _seen_line
    try:
        _file = os.open(_path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    # Watched before it is read for the first time, so that no change falls in between.
    _inotify = _watch_file()
    _seen_line = _read_line()
    _start_thread()


def _start_thread() -> None:
    threading.Thread(target=_wait, args=(_inotify,), name="torpor-restore", daemon=True).start()


def _watch_file() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(_IN_CLOEXEC)
    # The file stays the same one and is rewritten in place.
    if fd == -1 or libc.inotify_add_watch(fd, os.fsencode(_path), _IN_MODIFY) == -1:
        raise OSError(ctypes.get_errno(), "cannot watch for restores")
    return fd


def _wait(inotify: int) -> None:
    while True:
        os.read(inotify, 4096)
        try:
            check_restored()
        except Exception:
            sys.excepthook(*sys.exc_info())


def _go_on_in_child() -> None:
    """A fork has one thread, and shares what is open with its parent."""
    global _lock, _inotify
    _lock = threading.RLock()
    if _inotify is None:
        return
    os.close(_inotify)
    _inotify = _watch_file()
    _start_thread()
    check_restored()


_start()
os.register_at_fork(after_in_child=_go_on_in_child)
