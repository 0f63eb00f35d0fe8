"""The processes that serve a device: the keeper, which must not fail, and workers, which may.

``keeper`` is the loop that owns socket and connection, ``supervisor`` keeps workers alive and hands them queues,
``worker`` runs rings and the device's code. They talk through ``channel``, and share ``journal_file``.
"""
