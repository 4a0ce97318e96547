"""The library: sandboxes from a Python program."""
