"""What the bytes of a store mean; `docs/format.md` in code."""
