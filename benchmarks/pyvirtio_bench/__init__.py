"""Benchmarks: the devices that ship, as a user installs and serves them, beside back-ends in C.

This package belongs to the source checkout and is not part of the wheel: ``make bench`` runs it, and so does
``pyvirtio bench`` after ``make tools``.

`pythons` and `installs` make the environment that is measured; `programs` builds the two C programs in the folder
``c``, the front-end that drives everything and the peer on QEMU's own libvhost-user; `storage` has the peer of the
disk. `backends` starts them, `runs` measures them by turns, `statistics` turns the samples into medians and ratios,
`compare` makes tables of these. Each module of `tables` answers one question of docs/benchmarks.md, which `page` writes
and `picture` illustrates. `ring` needs no second process: it measures the device's side of one queue.
"""
