"""What the networks are: architectures, their papers, their inputs, where their weights are published."""
