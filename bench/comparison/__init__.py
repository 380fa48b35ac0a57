"""`modelzoo bench`: the bare loop and the server by turns, and the report of it."""
