"""Neural networks, and how they are trained and decoded; knows no task."""
