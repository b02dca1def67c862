"""For people to look at: text safe for a terminal, the map, figures, a report, the explorer."""
