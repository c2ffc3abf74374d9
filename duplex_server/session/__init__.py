"""One conversation in time: input, turns, output. Knows nothing about JSON, HTTP or tensors."""
