"""What callers of a pipeline give and get: arguments, messages, turns, answers."""
