"""Boots a real guest: finds or provisions QEMU and a kernel, builds the initramfs, runs, collects.

This room knows nothing of devices or of vhost-user. Whoever boots a guest passes the path of a socket
behind which a device answers, and a few numbers about it (`pyvirtio.vm.machine.VhostUserDevice`).
"""
