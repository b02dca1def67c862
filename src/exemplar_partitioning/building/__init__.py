"""From a model and text to a folder of dictionaries: one stream, many sites and percentiles."""
