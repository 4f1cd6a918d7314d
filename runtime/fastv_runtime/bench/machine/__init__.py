"""What a machine says of itself and of what it does: environment, load, clocks, energy, memory."""
