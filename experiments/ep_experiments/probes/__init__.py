"""What linear probes read from the identity of a region."""
