"""Tests that need eight devices; `tests/many_devices_test.py` runs them."""
