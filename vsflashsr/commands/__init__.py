"""What stands behind ``vsflashsr COMMAND``: one file a command, each imported when it is called."""
