"""Stores at a path or an fsspec URL: opening, reading and writing, with retries of transient errors.

- `protocol`: the interface (`Storage`); `local`, `remote`: its implementations; `opening`: chooses one for a URL
- `places`: parsing paths and URLs, and opening remote file systems; `names`: names of checkpoint folders and files
- `connections`, `ftp`: connections to remote stores; `transient`: classifies errors; `retry`: retries
"""
