"""What several test files share: runs, stores, clusters, planted faults. `tests` is on the path (pyproject.toml)."""
