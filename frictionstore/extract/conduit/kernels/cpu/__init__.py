"""Programs for processors, through LLVM and Numba."""
