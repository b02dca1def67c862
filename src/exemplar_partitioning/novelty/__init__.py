"""Text unlike what a dictionary was built from: scores of tokens and documents, and alarms at a rate of your choice."""
