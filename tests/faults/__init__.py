"""Faults on purpose: damaged files, hostile input, kills, full disks. Run whole by `python -m benchmarks.faults`."""
