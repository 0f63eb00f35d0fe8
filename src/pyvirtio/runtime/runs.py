"""What a device does by itself: its `run`, from the first queue that starts to the device's reset or end."""

from __future__ import annotations

from pyvirtio.transport import Completion

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from pyvirtio.device import Device

    Report = Callable[[str, str, BaseException | None], object]


class Runs:
    """The `run` of a device, as a task of ``loop``, and those before it that were cancelled and have not ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None, report: Report) -> None:
        self._loop = loop
        self._report = report
        self._current: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        """What has not ended."""

    def start(self, device: Device) -> None:
        """Begin the `run` of ``device``, if it has one that was not begun yet."""
        from pyvirtio.device import Device

        if self._current is None and self._loop is not None and type(device).run is not Device.run:
            self._current = self._loop.create_task(_run(device, list(self.tasks)), name=f"{type(device).__name__}.run")
            self.tasks.add(self._current)
            self._current.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._report(
                "run-failed",
                f"the device's run failed, and goes on no more until the device is reset: {error!r}",
                error,
            )

    def cancel(self) -> None:
        """Cancel what was begun; the next `start` begins it again."""
        if self._current is not None:
            self._current.cancel()
            self._current = None


async def _run(device: Device, earlier: list[asyncio.Task[None]]) -> None:
    if earlier:  # they were cancelled, and two at a time would get into each other's way
        import asyncio

        await asyncio.wait(earlier)
    await device.run()


def attempt(method: Callable[[], object], report: Report, event: str, name: str) -> None:
    """Call a method of the device that answers no request; report it where it fails, and go on."""
    try:
        method()
    except Exception as error:  # noqa: BLE001  # the author's code may raise anything; the process goes on
        report(event, f"{name} failed: {error!r}", error)


def retire(device: Device, report: Report) -> None:
    """Have a device release what it holds."""
    attempt(device.retire, report, "close-failed", "the device's close")


def end_of(tasks: Iterable[asyncio.Task[None]]) -> Completion[None]:
    """Return a completion that is done when all of ``tasks`` have ended."""
    ends = []
    for task in tasks:
        end: Completion[None] = Completion()
        task.add_done_callback(lambda _task, end=end: end.complete(None))  # type: ignore[misc]  # a lambda's defaults
        ends.append(end)
    return Completion.all(ends)
