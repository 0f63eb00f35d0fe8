"""Boots real guests: finds or provisions QEMU and a kernel, builds the initramfs, runs, collects.

Nothing here serves a device or speaks vhost-user. A guest is booted with the path of a socket on which a
back-end listens and a few numbers about its device (`pyvirtio.vm.machine.VhostUserDevice`).
"""
