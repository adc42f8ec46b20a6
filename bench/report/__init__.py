"""A measurement as tables, charts, pages and files."""
