"""The vocabulary that every task shares. Knows no task."""
