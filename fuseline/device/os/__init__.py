"""Running the verified application as a process of its own."""
