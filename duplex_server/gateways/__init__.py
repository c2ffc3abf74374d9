"""Several processes behind one port: who starts them, what they share, and how a request finds the right one."""
