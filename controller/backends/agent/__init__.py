"""The link to the agent inside a sandbox, and executions over it; the same for every backend that has agents."""
