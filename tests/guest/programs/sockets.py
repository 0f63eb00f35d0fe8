#!/usr/bin/python3
"""What a guest does with AF_VSOCK, for tests: `sockets DOING ARGUMENT…`; the host is at CID 2."""

import errno
import hashlib
import os
import select
import socket
import sys

HOST = 2
PIECE = 1 << 16


def connected(port):
    sock = socket.socket(socket.AF_VSOCK)
    sock.connect((HOST, port))
    return sock


def listening(port):
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen(128)
    return listener


def receive(sock, length):
    data = b""
    while len(data) < length and (piece := sock.recv(min(PIECE, length - len(data)))):
        data += piece
    return data


def many(number, port):
    """Open many connections, then have each carry its own number there and back."""
    socks = [connected(port) for _ in range(number)]
    for index, sock in enumerate(socks):
        sock.sendall(index.to_bytes(4, "little"))
    wrong = [index for index, sock in enumerate(socks) if receive(sock, 4) != index.to_bytes(4, "little")]
    for sock in socks:
        sock.close()
    print(len(socks) - len(wrong))


def send(length, port):
    """Send so many bytes, and compare their checksum with the host's."""
    block = os.urandom(1 << 20)
    digest = hashlib.sha256()
    with connected(port) as sock:
        for start in range(0, length, len(block)):
            piece = block[: length - start]
            digest.update(piece)
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        print("same" if receive(sock, 32) == digest.digest() else "different", length)


def flood(port):
    """Send without end."""
    with connected(port) as sock:
        print("connected", flush=True)
        while True:
            sock.sendall(bytes(PIECE))


def take(port):
    """Accept a connection, receive to its end, and send the checksum back."""
    with listening(port) as listener:
        print("listening", flush=True)
        sock, _ = listener.accept()
    digest, length = hashlib.sha256(), 0
    with sock:
        while piece := sock.recv(PIECE):
            digest.update(piece)
            length += len(piece)
        sock.sendall(digest.digest())
        print("received", length)
        sock.recv(1)  # until the host has read that, too


def echo(port):
    """Send back what comes, for any number of connections, in the background."""
    listener = listening(port)
    print("listening", flush=True)
    if os.fork():
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):  # whoever waits for the end of what this says need not wait for the program
        os.dup2(nowhere, fd)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    socks = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                socks[sock.fileno()] = sock
                poll.register(sock, select.POLLIN)
                continue
            try:
                data = socks[fd].recv(PIECE)
                if data:
                    socks[fd].sendall(data)
            except OSError:  # the other end is gone
                data = b""
            if not data:
                poll.unregister(fd)
                socks.pop(fd).close()


def hold(port):
    """Have a connection open, and say what came before it ended."""
    with connected(port) as sock:
        print("connected", flush=True)
        print("ended", len(receive(sock, 1 << 40)))


def attempt(port):
    """Say what comes of a connection."""
    with connected(port) as sock:
        sock.sendall(b"hello")
        print("connected", receive(sock, 5).decode())


def main(doing, *numbers):
    """Do one of these."""
    try:
        globals()[doing](*map(int, numbers))
    except OSError as error:
        print("failed", errno.errorcode.get(error.errno or 0))


if __name__ == "__main__":
    main(*sys.argv[1:])
