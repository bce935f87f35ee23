"""The command line: `main` lists the commands, and each command has its own file."""
