"""What is injected: a file for each family of faults."""
