"""Sessions: requests to the model, their schedule, and the handling of results."""
