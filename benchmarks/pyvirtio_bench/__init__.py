"""Benchmarks: back-ends of the factorial device, ours and one in C, measured with one and the same front-end.

This package belongs to the source checkout and is not part of the wheel: ``make bench`` runs it, and so does
``pyvirtio bench`` after ``make tools``.

`programs` builds the two C programs in the folder ``c``: the front-end that measures, and the peer on QEMU's own
libvhost-user. `engines` says which ring engines can run here, `backends` starts what is measured, `workload` has the
front-end measure it, `statistics` turns the samples into medians and ratios, and each module of `tables` is one table
of docs/benchmarks.md, which `page` writes. `ring` needs no second process: it measures the device's side of one queue.
"""
