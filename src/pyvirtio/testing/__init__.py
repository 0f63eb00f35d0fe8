"""Peers to test your own device or driver against, hostile ones included.

``front_end`` speaks vhost-user as a script tells it to; ``served`` runs ``pyvirtio serve`` around a block of code.
"""
