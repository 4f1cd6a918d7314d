"""The samples of a calibration: read, prepared for the decoder, shown."""
