"""The tables, a module for each question: what is run, and what is shown of it.

A function that takes a `Bench` and returns tables. Its row in `suite.TABLES` gives it a name on the command line, and
``<!-- bench: NAME -->`` and ``<!-- end -->`` give each of its tables a place on the page.
"""
