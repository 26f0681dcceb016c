"""How results are shown: the console, tables, progress and reports."""
