"""A local web app to look at dictionaries: `ep explore` (docs/explorer-api.md)."""
