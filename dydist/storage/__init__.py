"""Places at a path or an fsspec URL: opened, read and written, and tried again where an error is transient.

- `protocol`: what a place can do (`Storage`); `local`, `remote`: the two kinds; `opening`: which one a URL gets
- `places`: how paths and URLs are read, and the one door to a remote file system; `names`: names that mean something
- `connections`, `ftp`: connections to remote stores; `transient`: which errors may pass; `retry`: trying again
"""
