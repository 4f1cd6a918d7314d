"""From measurements to figures: statistics, bounds, predictions, comparisons. Pure."""
