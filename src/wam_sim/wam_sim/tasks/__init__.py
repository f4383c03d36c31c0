"""Task families, success checks and the scripted expert."""
