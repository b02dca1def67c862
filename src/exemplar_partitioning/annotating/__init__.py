"""Evidence for every region: what its members are, where they come from, what they promote."""
