"""The drivers that ship with pyvirtio, one file each; each takes its wire structures from its device's file."""
