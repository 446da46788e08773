"""Statistics that know nothing of stores' files: permutations, lattices, intervals."""
