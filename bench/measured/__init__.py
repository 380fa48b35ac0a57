"""What is measured, and what of it: servers, the bare loop, processes, metrics pages."""
