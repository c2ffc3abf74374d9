"""What is said over the network: events, their JSON, and their order. Knows nothing about sockets or models."""
