"""Raises when it is imported, after printing where nothing should be printed."""

import sys

print("noise on stdout")
print("noise on stderr", file=sys.stderr)
raise RuntimeError("this plugin is broken on purpose")
