"""Runs beside each other.

- `two`: where two runs first differ, and by how much
- `many`: a table of runs grouped by what differs; `statistics`: means and intervals; `plot`: curves of all of them
"""
