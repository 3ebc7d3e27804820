"""Shell completion, answered before the command line is imported: a generated table, and names from a
small cache.
"""
