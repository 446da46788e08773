"""Stores on their way: copied, packed, pushed and pulled."""
