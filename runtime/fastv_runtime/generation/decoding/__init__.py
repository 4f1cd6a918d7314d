"""The language model as graphs linked by buffers: a prompt, what follows it, and what a later prompt finds of it."""
