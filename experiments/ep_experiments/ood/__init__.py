"""Text a dictionary was not made for, told by it and by others."""
