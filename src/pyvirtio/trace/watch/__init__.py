"""A running device as a page that others can look at: ``pyvirtio serve --watch``.

What the device's workers count goes into memory that they share with the process of the page (`figures`); what happens
rarely goes through a pipe (`feed`). That process makes values of both (`rates`, `state`) and hands them to browsers
(`pages`). Neither the keeper nor a worker ever waits for it.
"""
