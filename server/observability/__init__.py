"""What an operator sees: metrics, logs, statistics."""
