#!/usr/bin/env python3
"""What tests have guests do: ``ping ADDRESS NUMBER``, ``receive PORT``, ``send ADDRESS PORT MIB``, ``channels NUMBER``.

Both sides of a transfer print the number of bytes and their SHA-256.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import os
import socket
import struct
import sys
import time

SIOCETHTOOL = 0x8946
ETHTOOL_GCHANNELS, ETHTOOL_SCHANNELS = 0x3C, 0x3D
MEGABYTE = 1 << 20
LIMIT = 60  # seconds
LATE = 5.0  # seconds
DATA = bytes(range(56))


def ping(address: str, number: str) -> None:
    """Ping as fast as answers come; print how many came, and how many did not within seconds."""
    lost = 0
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.connect((address, 0))
        raw.settimeout(LATE)
        for sequence in range(int(number)):
            packet = struct.pack(">BBHHH", 8, 0, 0, os.getpid(), sequence) + DATA
            packet = packet[:2] + struct.pack(">H", checksum(packet)) + packet[4:]
            raw.send(packet)
            try:
                while (
                    raw.recv(2000)[20:] != b"\0\0" + struct.pack(">H", checksum(b"\0\0\0\0" + packet[4:])) + packet[4:]
                ):
                    pass
            except TimeoutError:
                lost += 1
    print(f"{int(number) - lost} answered, {lost} lost")


def checksum(data: bytes) -> int:
    """Return the Internet's checksum."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def receive(port: str) -> None:
    """Take one connection, and everything that comes by it."""
    digest, number = hashlib.sha256(), 0
    with socket.create_server(("", int(port))) as listener:
        listener.settimeout(LIMIT)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(LIMIT)
            while data := connection.recv(MEGABYTE):
                digest.update(data)
                number += len(data)
            connection.sendall(b"!")
    print(number, digest.hexdigest())


def connect(address: str, port: str) -> socket.socket:
    """Connect as soon as somebody listens."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return socket.create_connection((address, int(port)), timeout=5)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def send(address: str, port: str, megabytes: str) -> None:
    """Send random bytes, and wait until they were taken."""
    digest, number = hashlib.sha256(), 0
    with connect(address, port) as connection:
        connection.settimeout(LIMIT)
        for _ in range(int(megabytes)):
            data = os.urandom(MEGABYTE)
            digest.update(data)
            number += len(data)
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b"!"
    print(number, digest.hexdigest())


def channels(number: str) -> None:
    """Use so many pairs of queues; print how many are in use."""
    request = array.array("I", [ETHTOOL_GCHANNELS, *[0] * 8])
    interface = struct.pack("16sQ16x", b"eth0", request.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, interface)
        request[0], request[8] = ETHTOOL_SCHANNELS, int(number)
        fcntl.ioctl(any_socket, SIOCETHTOOL, interface)
        request[0] = ETHTOOL_GCHANNELS
        fcntl.ioctl(any_socket, SIOCETHTOOL, interface)
    print(request[8])


if __name__ == "__main__":
    {"ping": ping, "receive": receive, "send": send, "channels": channels}[sys.argv[1]](*sys.argv[2:])  # type: ignore[operator]
