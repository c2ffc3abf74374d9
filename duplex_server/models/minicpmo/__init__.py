"""MiniCPM-o 4.5: the official weights through our own PyTorch code, several conversations in one batch.

Knows nothing about sessions or sockets. Importing this package imports neither torch nor anything else heavy.
"""
