"""Graphs against transformers: golden cases, how far outputs may differ, and the one comparison of all of them."""
