"""From the graphs of a bundle to engines for one device, and finding those engines again. Torch-free."""
