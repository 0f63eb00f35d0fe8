"""The one memory fence that a ring needs from a language that has none.

A processor may let a load overtake an earlier store to another address, x86 included. A ring
breaks on that in two places: publish an index, then look whether the other side wants to be told;
and ask to be told, then look once more whether something came. Without a fence wake-ups can be lost: in plain Python
under the interpreter lock, a bare store and load were seen to pass each other in up to 0.7 % of all rounds.

Releasing and retaking a lock that nobody else knows is such a fence: release orders what came
before, acquire what comes after, and the two cannot pass each other. It takes about 130 ns.
"""

from __future__ import annotations

import _thread  # what threading.Lock is; importing threading takes as long as a third of this package
import os

_lock = _thread.allocate_lock()
_lock.acquire()
_release = _lock.release
_acquire = _lock.acquire


def full_fence() -> None:
    """Order every load and store before this call before every one after it."""
    try:
        _release()
    except RuntimeError:
        # Another thread, or what a signal handler interrupted, is between the two calls; or Ctrl-C came there
        # once. The lock is theirs to retake.
        _fence_apart()
        return
    _acquire(False)  # nobody else takes it: what must never happen is to wait here


def _fence_apart() -> None:
    """Do the same with a lock of this call's own, which takes longer."""
    lock = _thread.allocate_lock()
    lock.acquire()
    lock.release()
    lock.acquire()


def _nothing() -> None:
    pass


# x86 keeps stores in order among themselves, and loads too; only a store followed by a load needs help.
_KEEPS_ORDER = os.uname().machine in ("x86_64", "i686")

read_barrier = _nothing if _KEEPS_ORDER else full_fence
"""Order the loads before this call before those after it: an index first, then what it announces."""

write_barrier = _nothing if _KEEPS_ORDER else full_fence
"""Order the stores before this call before those after it: an element first, then the index that announces it."""
