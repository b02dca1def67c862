"""For people to look at: the map, figures, a report, the explorer."""
