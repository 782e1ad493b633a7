"""One reader of tables, for files, pipes, growing files and the bodies of requests.

bytes -> `text` -> `csv_text` or `json_lines` -> pieces of columns -> `columns` -> rows of numbers and times

A piece has any number of rows: all of a small file, or a single row of a pipe. What is read does not depend
on how the rows are cut into pieces. So every rule is decided by a row and the rows before it, never by later
rows.
"""
