"""Videos: decoded to frames, and those prepared as each layout asks."""
