"""What the pages of fastv-bench and fastv-calibrate are drawn with: scales, marks, numbers."""
