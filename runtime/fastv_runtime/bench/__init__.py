"""Latency, memory and energy of bundles, measured side by side."""
