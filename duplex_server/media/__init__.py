"""Samples and pictures in, samples and pictures out. Knows nothing about sessions or the network."""
