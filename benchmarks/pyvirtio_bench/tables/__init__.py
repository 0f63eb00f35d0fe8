"""The tables, a module each: what is run, and what is shown of it.

Every module has a function `measure` that takes a `Bench` and returns tables.
"""
