"""Measuring an encoder; the only place that imports torch."""
