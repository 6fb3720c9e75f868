"""Text that crosses the program's border.

- `redaction`: keeps secrets out of what is written
- `display`: text from outside, made safe for terminals and pages
- `strict`: text that people write, read strictly
"""
