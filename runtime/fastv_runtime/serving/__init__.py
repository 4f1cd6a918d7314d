"""A bundle behind a network: one process, one model, many clients. Needs the extra `serve`."""
