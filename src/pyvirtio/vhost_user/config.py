"""The configuration space over vhost-user, and the channel on which the back-end speaks first."""

from __future__ import annotations

import os
import stat

from pyvirtio.errors import ProtocolError
from pyvirtio.system.eventfd import drain
from pyvirtio.transport import Outgoing
from pyvirtio.vhost_user import messages as m
from pyvirtio.vhost_user.framing import encode
from pyvirtio.vhost_user.handlers import Answer, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvirtio.transport import DeviceHost
    from pyvirtio.vhost_user.framing import Frame
    from pyvirtio.vhost_user.handlers import Handlers, Steps


class ConfigMessages:
    """Handles GET_CONFIG and SET_CONFIG."""

    def __init__(self, host: DeviceHost) -> None:
        self._host = host

    def handlers(self) -> Handlers:
        """Return what handles each message."""
        return {
            m.Request.GET_CONFIG: on(m.ConfigHeader, self._get),
            m.Request.SET_CONFIG: on(m.ConfigHeader, self._set),
        }

    def _get(self, payload: m.ConfigHeader, frame: Frame) -> Answer:
        """Read bytes. The question has room for them ("the payload size must match"), or is its header only."""
        room = len(frame.payload) - m.ConfigHeader.nbytes
        self._check_bounds(payload)
        if room not in {0, payload.size}:
            raise ProtocolError(f"a question for {payload.size} bytes with room for {room}")
        return Answer(payload.pack() + self._host.read_config(payload.offset, payload.size))

    def _set(self, payload: m.ConfigHeader, frame: Frame) -> Steps[None]:
        """Write bytes; a driver's write leaves those out that it must not write.

        QEMU writes the whole space when its guest writes a byte of it, so that only a write without any byte that the
        driver may write is refused.
        """
        data = frame.payload[m.ConfigHeader.nbytes :]
        self._check_bounds(payload)
        if len(data) != payload.size or payload.flags > 1:
            raise ProtocolError(f"{payload.size} bytes were announced with flags {payload.flags}, {len(data)} came")
        by_driver = not payload.flags
        if data and by_driver and not any(self._host.description.writable[payload.offset :][: payload.size]):
            raise ProtocolError("a driver may not write that part of the configuration space")
        yield self._host.write_config(payload.offset, data, by_driver=by_driver)

    def _check_bounds(self, payload: m.ConfigHeader) -> None:
        length = len(self._host.description.config)
        if payload.offset + payload.size > length:
            raise ProtocolError(
                f"bytes {payload.offset} to {payload.offset + payload.size} of a configuration space of {length}"
            )


class BackendChannel:
    """The socket for the back-end's own messages ("Back-end communication"); owns its descriptor.

    There is one message, that the configuration space changed. It asks for no reply.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._is_due = False

    def handlers(self) -> Handlers:
        """Return what handles each message."""
        return {m.Request.SET_BACKEND_REQ_FD: self._set_fd}

    def _set_fd(self, frame: Frame) -> None:
        if not stat.S_ISSOCK(os.fstat(frame.fds[0]).st_mode):
            raise ProtocolError("the descriptor for the back-end's own messages is not a socket")
        self._replace(frame.fds.pop())

    def config_changed(self) -> None:
        """Take note of something to tell."""
        self._is_due = self._fd >= 0

    def outgoing(self) -> list[Outgoing]:
        """Return what is to be sent now."""
        if not self._is_due:
            return []
        self._is_due = False
        if not drain(self._fd):  # replies that nobody asked for would fill the socket
            self.close()
            return []
        return [Outgoing(encode(m.CONFIG_CHANGE_MSG), socket=self._fd, lossy=True)]

    def close(self) -> None:
        """Close the channel, if there is one."""
        self._replace(-1)

    def _replace(self, fd: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
