"""Other tools: files that they load, and dictionaries and autoencoders of theirs."""
