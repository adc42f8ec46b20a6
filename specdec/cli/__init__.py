"""The `specdec` command: one subcommand a file."""
