"""Whether a store is what its manifest says, mending it, and comparing two."""
