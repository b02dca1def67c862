"""Do directions of a dictionary rebuild activations it has not seen, and better than any others? PREREGISTRATION.md."""
