"""From the graphs of a bundle to TensorRT engines for one device. Uses `backends`, never the reverse."""
