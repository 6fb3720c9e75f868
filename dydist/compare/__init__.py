"""Compares runs.

- `two`: where two runs first differ, and by how much
- `many`: a table of runs grouped by what differs; `statistics`: means and intervals; `plot`: the table as a figure
"""
