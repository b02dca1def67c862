"""Activations that someone else computed, as a stream with whatever is known of their tokens."""
