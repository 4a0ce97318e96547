"""Sandboxes as plain processes: NO SECURITY ISOLATION; for development and tests."""
