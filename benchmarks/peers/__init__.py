"""Other runtimes as runners of fastv-bench, each in an environment of its own: see docs/peers.md."""
