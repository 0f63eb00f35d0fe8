"""VIRTIO 1.4 as data: what the specification fixes, and nothing that behaves.

``struct`` declares wire structures, ``features`` the feature and status
bits, ``split`` the layout of a split virtqueue.
"""
