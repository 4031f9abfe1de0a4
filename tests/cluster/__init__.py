"""A real Kubernetes for the tests, on a bare machine: docs/cluster.md has the picture."""
