"""Runs that are compared: tasks, methods, training, records."""
