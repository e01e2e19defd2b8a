"""What a run costs on devices that need not be there: programs compiled for them, and read."""
