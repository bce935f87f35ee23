"""What each command does; `kcframe.cli.main` only reads the command line."""
