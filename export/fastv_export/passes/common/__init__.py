"""What passes share, and those that every target's graphs go through."""
