"""VIRTIO 1.4 as data: what the specification fixes, and nothing that behaves.

``struct`` declares wire structures, ``ids`` names the device types, ``features`` the feature and status
bits, ``split`` the layout of a split virtqueue.
"""
