"""Serves a `DeviceHost` on Unix sockets: connections, bytes and descriptors. It knows no protocol and no process."""

from pyvirtio.server.server import Server

__all__ = ["Server"]
