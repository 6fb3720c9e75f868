"""Text that enters or leaves the program.

- `redaction`: removes secrets from text
- `display`: escapes untrusted text for terminals and pages
- `strict`: strict reading of YAML, JSON and numbers that users write
"""
