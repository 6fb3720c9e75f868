"""Benchmarks that come with the package: each compares two ways within one run. docs/results.md has figures."""
