"""How results are shown: panels on a terminal, as pictures, on the page, as Markdown; and in sentences."""
