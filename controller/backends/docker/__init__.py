"""Sandboxes as containers of a Docker daemon: the only home of docker-py."""
