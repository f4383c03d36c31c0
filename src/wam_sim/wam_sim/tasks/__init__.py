"""Scenes, task families, success checks and the scripted expert."""
