"""What the next token hangs on: regions at tokens, beside neurons and random activations (PREREGISTRATION.md)."""
