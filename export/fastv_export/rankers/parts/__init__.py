"""What several rankers' graphs are made of, and what a plan must have for each."""
