"""Text, tables and pages for people: terminals and HTML."""
