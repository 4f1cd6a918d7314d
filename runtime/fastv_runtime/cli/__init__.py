"""Commands that run on the device."""
