"""Workers that run models beside the event loop. Knows nothing about wire formats or sockets."""
