"""Concept detection by regions, autoencoders and directions."""
