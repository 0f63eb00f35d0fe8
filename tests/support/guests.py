"""Guests for tests: skipped, with the reason, where nothing can be provisioned, and what their kernels must not say."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio import vm
from pyvirtio.errors import ProvisionError
from pyvirtio.vm.launch import OWN_DRIVER, GuestOptions, default_builder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyvirtio.vm import Guest
    from pyvirtio.vm.guests import Attachable

TROUBLE = ("Oops", "BUG:", "WARNING:", "Call Trace", "refcount", "kmemleak", "is not a head", "leaked", "reports error")


@contextlib.contextmanager
def guest(*devices: Attachable, **options: Any) -> Iterator[Guest]:
    """Boot a guest as `pyvirtio.vm.guest` does, emulated unless it says otherwise; skip where it cannot be had."""
    with contextlib.ExitStack() as stack:
        try:
            machine = stack.enter_context(vm.guest(*devices, **{"accel": "tcg", **options}))
        except ProvisionError as error:
            pytest.skip(f"nothing can be provisioned here: {error}")
        yield machine


def need_guests() -> None:
    """Provision what an ordinary guest takes; skip where it cannot be had."""
    try:
        default_builder().prepare(GuestOptions(accel="tcg", drivers=[OWN_DRIVER]))
    except ProvisionError as error:
        pytest.skip(f"nothing can be provisioned here: {error}")


@contextlib.contextmanager
def unremarkable(machine: Guest, *, allowed: tuple[str, ...] = ()) -> Iterator[None]:
    """Fail if what runs in the block makes the guest's kernel complain."""
    yield
    log = machine.run("dmesg").lines
    found = [line for line in log if any(sign in line for sign in TROUBLE if sign not in allowed)]
    assert not found, "\n".join(log[-60:])


def pause(machine: Guest) -> None:
    """Stop the machine, its devices included, and let it go on."""
    machine.stop()
    assert machine.monitor.execute("query-status")["status"] == "paused"
    machine.cont()


@contextlib.contextmanager
def disturbing(*disturbances: Callable[[], object], interval: float = 0.5) -> Iterator[list[int]]:
    """Do these in turn, one every ``interval`` seconds, while the block runs; yield how often each was done."""
    done = [0] * len(disturbances)
    is_over = threading.Event()

    def disturb() -> None:
        while not is_over.wait(interval):
            number = done.index(min(done))
            disturbances[number]()
            done[number] += 1

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield done
    finally:
        is_over.set()
        thread.join()
