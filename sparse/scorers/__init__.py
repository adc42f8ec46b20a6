"""How important a page is for a query: one method a file."""
