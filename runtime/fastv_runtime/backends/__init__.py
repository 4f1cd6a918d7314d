"""What executes graphs: one protocol, a registry of backends, one file or folder each."""
