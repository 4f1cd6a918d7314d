"""What takes part in a benchmark: a bundle here, in a process of its own, or another runtime."""
