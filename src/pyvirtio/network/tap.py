"""A TAP device of this machine: a network card whose cable ends in a file descriptor."""

from __future__ import annotations

import os
import struct

from pyvirtio.errors import LocalError
from pyvirtio.network.descriptor import DescriptorEnd
from pyvirtio.network.inbox import MOST_AT_ONCE
from pyvirtio.network.packet import LONGEST, Offload, VnetHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvirtio.network.packet import Packet

DEVICE = "/dev/net/tun"
# <linux/if_tun.h>
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F = {Offload.CSUM: 0x01, Offload.TSO4: 0x02, Offload.TSO6: 0x04}
LONGEST_NAME = 15


class TapEnd(DescriptorEnd):
    """The TAP device ``name``, which is made where there is none; that takes the right CAP_NET_ADMIN.

    With packets it exchanges the headers of ``struct virtio_net_hdr`` (IFF_VNET_HDR), so the kernel completes
    checksums and cuts packets where a network card needs it, and leaves that to the guest where the guest can.

    Raises:
        LocalError: the machine has no TAP devices, or this user may not use them.
    """

    takes = Offload.ALL

    def __init__(self, name: str) -> None:
        super().__init__()
        if not 0 < len(os.fsencode(name)) <= LONGEST_NAME:
            raise LocalError(f"tap={name}: a network device cannot be called so; give 1 to {LONGEST_NAME} characters")
        if not os.access(DEVICE, os.R_OK | os.W_OK):
            raise LocalError(
                f"tap={name}: {DEVICE} cannot be opened; load the kernel's module tun, and give this user the right"
            )
        self._name = name

    async def open(self, accepts: Offload) -> None:
        """Open the device.

        Raises:
            LocalError: it cannot be opened; the message says why.
        """
        from fcntl import ioctl

        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            ioctl(fd, TUNSETIFF, struct.pack("16sH22x", os.fsencode(self._name), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
            # Without CSUM the kernel takes none of the others.
            ioctl(fd, TUNSETOFFLOAD, sum(bit for one, bit in TUN_F.items() if one & accepts and Offload.CSUM & accepts))
        except OSError as error:
            os.close(fd)
            raise LocalError(
                f"tap={self._name}: {error.strerror}; nobody else may use it, and it takes CAP_NET_ADMIN "
                f"or one that was made for this user (ip tuntap add {self._name} mode tap user $USER)"
            ) from error
        self.attach(fd)

    def close(self) -> None:
        """Close the device; one that `open` made is gone then."""
        fd = self._fd
        self.detach()
        if fd >= 0:
            os.close(fd)

    def framed(self, header: bytes, frame: bytes) -> bytes:
        """Return header and frame."""
        return header + frame

    def write(self, message: bytes) -> int:
        """Write one packet."""
        return os.write(self._fd, message)

    async def receive(self) -> Sequence[Packet]:
        """Wait for packets."""
        packets: list[Packet] = []
        while True:
            try:
                while len(packets) < MOST_AT_ONCE:
                    data = os.read(self._fd, VnetHeader.nbytes + LONGEST)
                    packets.append((data[: VnetHeader.nbytes], data[VnetHeader.nbytes :]))
                return packets
            except BlockingIOError:
                if packets:
                    return packets
                await self.readable()
