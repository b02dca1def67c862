"""What needs no hub: pinned, hashed wheels on the package index that hold small models and text."""
