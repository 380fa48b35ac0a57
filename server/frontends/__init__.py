"""The front-end processes of an engine, and the connections between them and it."""
