"""Programs for NVIDIA GPUs, through Triton."""
