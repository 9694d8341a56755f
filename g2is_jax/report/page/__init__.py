"""The page of a run: sections made of plain blocks, written as HTML and as Markdown."""
