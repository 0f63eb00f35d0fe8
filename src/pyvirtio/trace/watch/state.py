"""What is known of a running device from what it tells now and then: who is connected, what was agreed on, the log."""

from __future__ import annotations

from collections import Counter, deque

from pyvirtio.spec.features import Feature
from pyvirtio.spec.ids import device_name
from pyvirtio.system.events import EVENTS
from pyvirtio.system.log import one_line
from pyvirtio.trace.events import NO_QUEUE
from pyvirtio.trace.text import said
from pyvirtio.vhost_user import messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvirtio.trace.events import Event

LAST = 50
"""The lines of the log and the messages that are kept."""


class DeviceState:
    """Takes events, and knows what they amount to."""

    def __init__(self) -> None:
        self.device: dict[str, Any] = {}
        self.connection: dict[str, Any] = {"number": 0, "is_open": False}
        self.features: int | None = None
        self.config = ""
        self.queues: dict[int, dict[str, Any]] = {}
        self.missed = 0
        self._counts: Counter[str] = Counter()
        self._log: deque[dict[str, Any]] = deque(maxlen=LAST)
        self._messages: deque[dict[str, Any]] = deque(maxlen=LAST)

    def take(self, event: Event) -> None:
        """Take an event."""
        if take := _TAKERS.get(event.what):
            take(self, event)

    def _device(self, event: Event) -> None:
        self.device = {name: event[name] for name in ("id", "features", "sizes")}
        self.device |= {"name": one_line(event["name"]), "kind": device_name(event["id"])}
        self.config = event["config"]

    def _connected(self, event: Event) -> None:
        self.connection = {"number": event["connection"], "is_open": True, "at": event.at}
        self.features = None

    def _disconnected(self, event: Event) -> None:
        self.connection = {"number": event["connection"], "is_open": False, "at": event.at}
        for queue in self.queues.values():
            queue["runs"] = False

    def _queue(self, event: Event) -> None:
        if event.queue == NO_QUEUE:
            return
        self.queues[event.queue] = {"size": event["size"], "position": event["position"], "runs": True}
        self.features = event["features"]

    def _message(self, event: Event) -> None:
        lines = [one_line(line).strip() for line in said(event)]
        self._messages.appendleft({"at": event.at, "by": event.by, "text": ": ".join(lines[:1]), "more": lines[1:]})
        payload = bytes.fromhex(event["payload"])
        is_reply = bool(event.get("flags", 0) & m.F_REPLY)
        if event["request"] == m.Request.SET_FEATURES and not is_reply and len(payload) == m.Number.nbytes:
            self.features = m.Number.unpack(payload).value
        if event["request"] == m.Request.GET_VRING_BASE and is_reply and len(payload) == m.VringState.nbytes:
            self.queues.get(m.VringState.unpack(payload).queue, {})["runs"] = False

    def _config(self, event: Event) -> None:
        self.config = event["config"]

    def _logged(self, event: Event) -> None:
        if event["name"] in EVENTS:
            self._counts[event["name"]] += 1
        self._log.appendleft({"at": event.at, "name": one_line(event["name"]), "text": one_line(event["text"])})

    def _damaged(self, event: Event) -> None:
        self._log.appendleft({"at": event.at, "name": "damaged", "text": one_line(event["error"])})

    def _missed(self, event: Event) -> None:
        self.missed += event["count"]

    def values(self) -> dict[str, Any]:
        """Return all that is known but for the queues."""
        return {
            "device": self.device,
            "connection": self.connection,
            "features": None if self.features is None else feature_names(self.features),
            "offered": feature_names(self.device.get("features", 0)),
            "config": self.config,
            "restarts": self._counts["worker-ended"],
            "reloads": self._counts["device-reloaded"],
            "failures": self._counts["request-failed"] + self._counts["method-failed"],
            "log": list(self._log),
            "messages": list(self._messages),
            "missed": self.missed,
        }


_TAKERS: dict[str, Callable[[DeviceState, Event], None]] = {
    "device": DeviceState._device,
    "connected": DeviceState._connected,
    "disconnected": DeviceState._disconnected,
    "queue": DeviceState._queue,
    "resumed": DeviceState._queue,
    "message": DeviceState._message,
    "config": DeviceState._config,
    "log": DeviceState._logged,
    "damaged": DeviceState._damaged,
    "missed": DeviceState._missed,
}


def feature_names(features: int) -> list[list[Any]]:
    """Return the bits that are set, each with its name; those of the device type have none here.

    >>> feature_names(1 << 32 | 1 << 5)
    [[5, 'of the device type'], [32, 'VERSION_1']]
    """
    return [[bit, _FEATURES.get(1 << bit, "of the device type")] for bit in range(64) if features >> bit & 1]


_FEATURES = {int(bit): str(bit.name) for bit in Feature} | {m.F_PROTOCOL_FEATURES: "PROTOCOL_FEATURES of vhost-user"}
