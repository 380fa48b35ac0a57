"""What every command shares: options, how it prints and rejects, its streams."""
