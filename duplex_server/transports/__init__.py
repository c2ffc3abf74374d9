"""Connections to peers: what brings bytes in and out, and knows nothing about conversations."""
