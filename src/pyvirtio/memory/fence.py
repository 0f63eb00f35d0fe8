"""Memory fences for a language that has none.

A processor may let a load overtake an earlier store to another address; even x86 does. A ring breaks on that in two
places: publish an index, then look whether the other side wants a notification; and ask for a notification, then look
once more whether something came. Without a fence between the store and the load, a wake-up can be lost: plain Python,
under the interpreter lock, showed the two in the wrong order in up to 0.7 % of all rounds.

The fence is made of a lock that nobody else uses: release it, then take it again. A release keeps what came before it
in front, an acquire keeps what follows it behind. That makes a full fence only where the acquire cannot overtake the
release, that is, where the two are *RCsc* (release consistency with sequentially consistent synchronization). They
are on x86, where both are locked instructions, and on ARMv8, whose load-acquire (LDAR) waits for every earlier
store-release (STLR). C11 alone does not promise it. A fence takes about 130 ns.
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
        # The lock is not held: another thread, or the code that this signal handler interrupted, is between release
        # and acquire, or a KeyboardInterrupt hit there earlier. Use a private lock instead.
        _fence_with_a_private_lock()
        return
    # Never wait here. The lock is free, unless another thread came in between: then that thread has taken it.
    _acquire(False)


def _fence_with_a_private_lock() -> None:
    """Do the same with a new lock, which takes longer."""
    lock = _thread.allocate_lock()
    lock.acquire()
    lock.release()
    lock.acquire()


def _nothing() -> None:
    """Do nothing: this processor keeps that order by itself."""


# x86 keeps stores in order among themselves, and loads too; only a store followed by a load needs help.
_KEEPS_ORDER = os.uname().machine in ("x86_64", "i686")

read_barrier = _nothing if _KEEPS_ORDER else full_fence
"""Order the loads before this call before those after it: an index first, then what it announces."""

write_barrier = _nothing if _KEEPS_ORDER else full_fence
"""Order the stores before this call before those after it: an element first, then the index that announces it."""
