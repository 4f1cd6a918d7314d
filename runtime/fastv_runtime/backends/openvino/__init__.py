"""OpenVINO on Intel's and AMD's processors: graphs that keep their caches themselves."""
