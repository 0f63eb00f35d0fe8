"""The structures and numbers of virtio sockets are those of Linux."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyvirtio.devices.vsock import Config
from pyvirtio.vsock.packets import Event, EventId, Header, Op, Shutdown, Type

if TYPE_CHECKING:
    from tests.support.uapi import Uapi


@pytest.mark.guest
def test_packets_are_those_of_linux(uapi: Uapi) -> None:
    assert not uapi.differences(
        "linux/virtio_vsock.h",
        structs={Config: "virtio_vsock_config", Header: "virtio_vsock_hdr", Event: "virtio_vsock_event"},
        numbers={
            "VIRTIO_VSOCK_OP_": Op,
            "VIRTIO_VSOCK_TYPE_": Type,
            "VIRTIO_VSOCK_SHUTDOWN_RCV": Shutdown.RECEIVE,
            "VIRTIO_VSOCK_SHUTDOWN_SEND": Shutdown.SEND,
            "VIRTIO_VSOCK_EVENT_": EventId,
        },
    )
