"""Stores that are opened, written, imported and combined."""
