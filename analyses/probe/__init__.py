"""The ridge probe's parts."""
