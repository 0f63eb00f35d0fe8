"""The configuration space of a device that runs in this process: what driver and device tell each other by it."""

from __future__ import annotations

from pyvirtio.runtime.config_space import ConfigSpace
from pyvirtio.runtime.runs import attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvirtio.device import Device
    from pyvirtio.runtime.config_space import Change
    from pyvirtio.transport import DeviceDescription

    Report = Callable[[str, str, BaseException | None], object]


class DeviceConfig(ConfigSpace):
    """A configuration space that hands the device what was written, and takes what the device writes.

    Args:
        description: how it begins, and what a driver may write.
        report: takes what goes wrong in the device's `config_written`.
        changed: is called when the device changed it by itself.
    """

    def __init__(self, description: DeviceDescription, report: Report, changed: Callable[[], object]) -> None:
        super().__init__(description.config, description.writable)
        self.last_changes: list[Change] = []
        """The bytes that the device changed last by itself."""
        self._report = report
        self._changed = changed
        self._answering: list[Change] | None = None  # what the device changes while it hears of a driver's write

    def give(self, device: Device) -> None:
        """Give the device what is in it now."""
        device.load_config(self.content)

    def give_written(self, device: Device, *, by_driver: bool) -> list[Change]:
        """Give the device what was written into it; return what the device changed in answer.

        The driver is not told of that: it has asked, and reads the answer next.
        """
        self.give(device)
        answer: list[Change] = []
        if by_driver:
            self._answering = answer
            attempt(device.config_written, self._report, "config-failed", "config_written")
            self._answering = None
        return answer

    def take(self, data: bytes) -> None:
        """Take the device's new content."""
        changes = self.replace(data)
        if self._answering is not None:
            self._answering += changes
            return
        self.last_changes = changes
        if changes:
            self._changed()
