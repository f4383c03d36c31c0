"""What is asked of the model, when, and what becomes of the answers."""
