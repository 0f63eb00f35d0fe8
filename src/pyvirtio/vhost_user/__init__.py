"""vhost-user, sans-IO: bytes and descriptors in, replies and calls of a `DeviceHost` out.

``messages`` is the protocol as data, ``framing`` cuts the stream into messages, ``backend`` is the device's end,
``frontend`` the driver's. Only ``client`` knows a socket. The protocol is QEMU's "Vhost-user Protocol"
(docs/interop/vhost-user.rst); its names are used here.
"""
