"""Saved graphs executed in bounded memory, chunk after chunk."""
