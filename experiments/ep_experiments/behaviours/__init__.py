"""A behaviour localised in regions, and taken out."""
