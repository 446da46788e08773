"""The conduit's arithmetic made into fast programs."""
