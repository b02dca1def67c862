"""How many tokens dictionaries and autoencoders take."""
