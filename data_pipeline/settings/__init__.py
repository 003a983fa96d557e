"""What may a setting be? Ranges of the fields of every config and command, and how a command line becomes one."""
