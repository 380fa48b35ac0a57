"""The front door: one command, `modelzoo`; each subcommand opens one room, and only when it runs."""
