"""What an artifact is on disk, for what writes it and what reads it."""
