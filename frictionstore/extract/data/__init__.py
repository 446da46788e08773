"""Images to measure on."""
