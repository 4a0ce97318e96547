"""The Kubernetes cluster as the controller uses it: the only home of the official client."""
