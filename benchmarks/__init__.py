"""Side-by-side benchmarks: our engine against a plainly written version of the paper's procedure."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as `ep` sets it; read when torch is imported
