"""The choice and the running of batches."""
