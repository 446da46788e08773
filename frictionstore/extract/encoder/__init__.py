"""The encoder: its settings, its model, its weights."""
