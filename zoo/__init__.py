"""What the networks are: architectures, their papers, their inputs; no weights, no files."""
