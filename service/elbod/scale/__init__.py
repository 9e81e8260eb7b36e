"""The same work beyond one process: whole sets of rows in parts, and Ray to spread them, to serve and to train."""
