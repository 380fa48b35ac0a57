"""Pictures of any size, fitted to a network's input."""
