"""The default model: small, honest, and at home on a CPU. Knows nothing about sessions or sockets."""
