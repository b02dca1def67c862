"""Side-by-side benchmarks: our engine against a plainly written version of the paper's procedure."""
