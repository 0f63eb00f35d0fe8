"""Measures back-ends of the factorial device, ours and a C one, with one and the same front-end.

`programs` builds the two C programs of the folder ``c``: the front-end that measures, and the peer on QEMU's own
libvhost-user. `backends` starts what is measured, `load` has the front-end measure it, `figures` makes medians and
ratios of what came, and each module of `tables` is one table of docs/benchmarks.md, which `page` writes.
"""
