"""The graphs of a plan: which there are, how each is built, and writing them with weights streaming."""
