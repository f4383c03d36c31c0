"""Parts of the mapping between our values and the messages of a server profile."""
