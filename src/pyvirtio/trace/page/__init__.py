"""Pages for a browser: one that plays a recording, one that shows a running device.

Each is one file without a network: `joining` puts a template, styles, scripts and data of this folder together, and
`steps` makes the data of a recording. What a recording says is data there and never markup, whoever wrote it.
"""
