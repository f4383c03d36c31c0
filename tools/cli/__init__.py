"""The `./wam` command. It uses only the standard library: it runs before anything is installed."""
