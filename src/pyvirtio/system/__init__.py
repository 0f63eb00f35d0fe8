"""What Linux offers and Python does not wrap: signalling eventfds, and descriptors over Unix sockets."""
