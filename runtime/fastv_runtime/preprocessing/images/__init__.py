"""Images: loaded, resized and cut as each layout of `fastv_runtime.config.layouts` asks."""
