"""Runs in a network of its own: the driver, a card, a TAP device, the kernel, a socket that echoes, and back."""

from __future__ import annotations

import socket
import sys
import threading

from pyvirtio import open_driver
from pyvirtio.devices.net import Net, NetFeature
from pyvirtio.drivers.net import NetDriver
from pyvirtio.network.offload import completed
from pyvirtio.network.packet import Flag
from tests.support.ipv4 import Host, mac_in_reply, udp_data
from tests.support.namespace import bring_up

NAME, ADDRESS = "pvtap0", "10.9.8.1"
US = Host(bytes.fromhex("020000000001"), "10.9.8.2")
SIZES = (1, 100, 1400)


def echo(waiting: socket.socket) -> None:
    """Return each datagram to where it came from."""
    for _ in SIZES:
        data, origin = waiting.recvfrom(2000)
        waiting.sendto(data[::-1], origin)


def main() -> None:
    """Exchange datagrams, whose checksums each side leaves to the other where ``offloads`` says so."""
    offloads = NetFeature.CSUM | NetFeature.GUEST_CSUM if sys.argv[1] == "offloads" else NetFeature(0)
    with open_driver(NetDriver, Net(tap=NAME), features=NetDriver.features | offloads) as driver:
        packets = driver.packets(timeout=10)
        driver.command(0, 0, b"\1")  # the loop runs while it waits, and so the device is made
        bring_up(NAME, ADDRESS)
        driver.send(US.arp_request(ADDRESS))
        kernel = Host(mac_in_reply(next(frame for _h, frame in packets if frame[12:14] == b"\x08\x06")), ADDRESS)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waiting:
            waiting.bind((ADDRESS, 0))
            thread = threading.Thread(target=echo, args=(waiting,))
            thread.start()
            left = 0
            for size in SIZES:
                data = bytes(number % 251 for number in range(size))
                header, frame = US.udp(kernel, data, port=waiting.getsockname()[1])
                if offloads:
                    driver.send(frame, header=header)
                else:
                    driver.send(completed(frame, header.csum_start, header.csum_offset))
                while (answer := next(packets))[1][12:14] != b"\x08\x00":
                    if answer[1][12:14] == b"\x08\x06":  # the kernel asks who we are
                        driver.send(arp_reply(kernel))
                header, frame = answer
                if header.flags & Flag.NEEDS_CSUM:
                    left += 1
                    frame = completed(frame, header.csum_start, header.csum_offset)
                assert udp_data(frame) == data[::-1], size
            thread.join()
    print(f"{len(SIZES)} datagrams, {left} checksums left to us")


def arp_reply(kernel: Host) -> bytes:
    """Return the answer that tells the kernel where we are."""
    body = bytes.fromhex("0001080006040002") + US.mac + socket.inet_aton(US.address)
    return kernel.mac + US.mac + b"\x08\x06" + (body + kernel.mac + socket.inet_aton(ADDRESS)).ljust(46, b"\0")


if __name__ == "__main__":
    main()
