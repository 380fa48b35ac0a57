"""The models of a process, as both columns see them."""
