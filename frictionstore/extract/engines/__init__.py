"""Who computes the maps, and on what."""
