"""A store for people: in words and in the browser."""
