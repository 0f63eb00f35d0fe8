"""Fixtures for pytest, which loads this by itself where pyvirtio is installed.

| fixture | is |
|---|---|
| ``virtio_guest`` | boots a guest for this test: ``virtio_guest(device, packages=[…])``, as `pyvirtio.vm.guest` |
| ``virtio_guest_factory`` | the same as a context manager, for fixtures of any scope |
| ``virtio_serve`` | serves a device object for this test; its path goes to any front-end |
| ``virtio_driver`` | opens a driver for this test, as `pyvirtio.open_driver` |
| ``virtio_rng`` | random numbers of this test, the same ones for the same ``PYVIRTIO_SEED`` |

Device objects given to the first three are watched: ``requested``, ``answered`` and ``failed`` are events to wait for
(`pyvirtio.testing.watch`). The report of a failed test shows the guest's console, and of each device what was wrong and
the last requests. Sockets and files are a test's own, so that xdist may run any number at a time.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from pyvirtio.connect import open_driver, serving
from pyvirtio.device import Device
from pyvirtio.errors import ProvisionError
from pyvirtio.testing.watch import Watch, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AbstractContextManager

    from pyvirtio.driver import Driver
    from pyvirtio.vm import Guest
    from pyvirtio.vm.guests import Attachable

    class WatchedServing(serving[Any]):
        """A device that is served and watched."""

        watch: Watch[Any]


SEED = "PYVIRTIO_SEED"
_LOOKED_AT = pytest.StashKey["Subjects"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what guests are by default, so that a whole run can be repeated on another kernel or machine."""
    group = parser.getgroup("pyvirtio")
    group.addoption("--virtio-arch", metavar="ARCH", help="the architecture of guests: x86_64, aarch64 or um")
    group.addoption("--virtio-kernel-version", metavar="V", help="the version of Debian's kernel in guests")


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no guest and no device."""
    config.stash[_LOOKED_AT] = Subjects()


class Subjects:
    """The guests and devices that are up at the moment, for the report of a test that fails."""

    def __init__(self) -> None:
        self.guests: list[Guest] = []
        self.watches: list[tuple[Watch[Any], serving[Any]]] = []

    @contextlib.contextmanager
    def serve(self, device: Device) -> Iterator[WatchedServing]:
        """Watch and serve a device."""
        with tempfile.TemporaryDirectory(prefix="pv-") as folder:
            watched: Watch[Any] = watch(device)
            with serving(device, os.path.join(folder, "s")) as served:
                served.watch = watched  # type: ignore[attr-defined]  # the test's view of it
                self.watches.append((watched, served))
                try:
                    yield served  # type: ignore[misc]  # as above
                finally:
                    self.watches.remove((watched, served))

    @contextlib.contextmanager
    def boot(self, devices: tuple[Attachable, ...], options: dict[str, Any]) -> Iterator[Guest]:
        """Boot a guest, with the devices that are objects served and watched."""
        from pyvirtio.vm import guest

        with contextlib.ExitStack() as stack:
            attached = [stack.enter_context(self.serve(one)) if isinstance(one, Device) else one for one in devices]
            machine = stack.enter_context(guest(*attached, **options))
            self.guests.append(machine)
            stack.callback(self.guests.remove, machine)
            yield machine

    def sections(self) -> Iterator[tuple[str, str]]:
        """Return what a report is to show: titles and texts."""
        for number, machine in enumerate(self.guests):
            yield f"console of guest {number}", "\n".join(machine.console_lines())
        for watched, served in self.watches:
            name = type(watched.device).__name__
            if served.faults:
                yield f"what was wrong at {name}", "\n".join(served.faults[-20:])
            yield f"last requests to {name}", "\n".join(map(repr, watched.last)) or "none"


@pytest.fixture(scope="session")
def virtio_guest_factory(pytestconfig: pytest.Config) -> Callable[..., AbstractContextManager[Guest]]:
    """Return a context manager that boots a guest, for a fixture of any scope; it takes what `pyvirtio.vm.guest` takes.

    A test is skipped where something cannot be provisioned, and fails where PYVIRTIO_REQUIRE_GUEST is set.
    """
    given = {
        name: value
        for name in ("arch", "kernel_version")
        if (value := pytestconfig.getoption(f"--virtio-{name.replace('_', '-')}"))
    }
    subjects = pytestconfig.stash[_LOOKED_AT]

    @contextlib.contextmanager
    def boot(*devices: Attachable, **options: Any) -> Iterator[Guest]:
        with contextlib.ExitStack() as stack:
            try:
                machine = stack.enter_context(subjects.boot(devices, {**given, **options}))
            except ProvisionError as error:
                if os.environ.get("PYVIRTIO_REQUIRE_GUEST"):
                    raise
                pytest.skip(f"nothing can be provisioned here: {error}")
            yield machine

    return boot


@pytest.fixture
def virtio_guest(
    virtio_guest_factory: Callable[..., AbstractContextManager[Guest]],
) -> Iterator[Callable[..., Guest]]:
    """Return a function that boots a guest, which ends with the test; it takes what `pyvirtio.vm.guest` takes."""
    with contextlib.ExitStack() as stack:

        def boot(*devices: Attachable, **options: Any) -> Guest:
            return stack.enter_context(virtio_guest_factory(*devices, **options))

        yield boot


@pytest.fixture
def virtio_serve(pytestconfig: pytest.Config) -> Iterator[Callable[[Device], WatchedServing]]:
    """Return a function that serves a device object until the test ends; its result has ``path`` and ``watch``."""
    subjects = pytestconfig.stash[_LOOKED_AT]
    with contextlib.ExitStack() as stack:

        def serve(device: Device) -> WatchedServing:
            return stack.enter_context(subjects.serve(device))

        yield serve


@pytest.fixture
def virtio_driver() -> Iterator[Callable[..., Any]]:
    """Return a function that opens a driver until the test ends; it takes what `pyvirtio.open_driver` takes."""
    with contextlib.ExitStack() as stack:

        def opened(driver: type[Driver], where: Any, **options: Any) -> Any:
            return stack.enter_context(open_driver(driver, where, **options))

        yield opened


@pytest.fixture
def virtio_rng(request: pytest.FixtureRequest) -> random.Random:
    """Return random numbers for this test: the same ones for the same seed, whatever else runs."""
    seed = os.environ.setdefault(SEED, str(random.SystemRandom().getrandbits(32)))
    return random.Random(f"{seed} {request.node.nodeid}")  # noqa: S311  # a test is to be repeatable


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the guests and devices of a failed test said, and how to repeat its random choices."""
    report = yield
    if report.failed:
        report.sections.extend(item.config.stash[_LOOKED_AT].sections())
        if "virtio_rng" in getattr(item, "fixturenames", ()) and SEED in os.environ:
            report.sections.append(("random choices", f"repeat them with {SEED}={os.environ[SEED]}"))
    return report
