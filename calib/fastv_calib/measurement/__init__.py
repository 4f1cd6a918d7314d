"""What samples tell of plans: one pass through the model each, and the clock."""
