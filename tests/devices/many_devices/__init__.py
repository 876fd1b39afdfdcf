"""Tests that need eight devices; `many_devices_test.py` runs them."""
