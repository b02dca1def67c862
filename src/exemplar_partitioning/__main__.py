"""`python -m exemplar_partitioning` is the command `ep`."""

from .cli import main

main()
