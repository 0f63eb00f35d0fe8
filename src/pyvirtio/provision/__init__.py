"""Fetches packages from the machine's own registry, and keeps what was fetched or built in a cache.

``cache`` holds finished entries, ``sources`` reads where the machine gets its packages from, ``apt`` runs
a private apt, ``packages`` downloads and unpacks with it, ``own_libraries`` lets what was unpacked
run, ``progress`` shows how far a long step has come.
Nothing here knows what the packages are for.
"""
